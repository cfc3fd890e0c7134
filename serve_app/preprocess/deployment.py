"""The preprocess stage as a Ray Serve deployment; the only file of this package that imports Ray."""

from ray import serve

from serve_app.contracts import ChatRequest, Prompt
from serve_app.in_flight import InFlight, folder_of_pod
from serve_app.logs import join_serve_log
from serve_app.metrics import RayMeter
from serve_app.process_memory import Collector, return_memory
from serve_app.replies import Tokenized
from serve_app.request_size import upload_bytes
from serve_app.settings import ModelSettings, PreprocessSettings
from serve_app.settings_scan import ScanSettings


# The preprocessor bounds its own work (decoders, fetches, bytes): a request that waits for a slow host blocks no other.
@serve.deployment(name="preprocess", ray_actor_options={"num_cpus": 1}, max_ongoing_requests=512)
class PreprocessDeployment:
    """One CPU process that prepares requests; throughput grows with the replicas."""

    def __init__(self, model: ModelSettings, settings: PreprocessSettings, scan: ScanSettings) -> None:
        from serve_app.preprocess.prepare import Preprocessor  # slow, and only this process needs it
        from serve_app.preprocess.scan import Scanner

        join_serve_log()
        return_memory()
        self._collector = Collector()
        self._in_flight = InFlight(folder_of_pod())
        meter = RayMeter()
        scanner = Scanner(scan, meter) if scan.address else None
        self._preprocessor = Preprocessor(model, settings, meter, scanner=scanner)

    async def prepare(self, request: ChatRequest, unsent: bool = False, again: bool = False) -> Prompt:
        try:
            with self._in_flight:
                return await self._preprocessor.prepare(request, unsent=unsent, again=again)
        finally:
            self._collector.released(upload_bytes(request))

    async def tokenize(self, request: ChatRequest) -> Tokenized:
        return await self._preprocessor.tokenize(request)

    async def abilities(self) -> tuple[str, ...]:
        """What the served model's template and tokenizer can express; an answer means that the replica is ready."""
        return self._preprocessor.abilities

    def check_health(self) -> None:
        self._preprocessor.check_health()
