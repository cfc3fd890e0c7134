# Two images of one service: `--target cpu` and `--target gpu`. Why it is as it is: docs/decisions/0010-image.md.
#
#   make image                      the cpu image
#   make image IMAGE_TARGET=gpu     the gpu image
#
# Any Debian with Python 3.11 to 3.13 will do as the base. The default is a tag, which its registry moves at each update of
# Debian or Python; a release names the base with its digest, which `make image` checks:
#   make image BASE=docker.io/library/python:3.11-slim-bookworm@sha256:...
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS base
# wget is what KubeRay's readiness probe calls. The user has a name because libraries ask for it. A login shell, which
# KubeRay can be told to use, finds our commands too. Nothing here needs to become root.
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends ca-certificates wget >/dev/null \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/* \
 && groupadd --gid 10001 glm \
 && useradd --uid 10001 --gid glm --no-create-home --home-dir /tmp --shell /usr/sbin/nologin glm \
 && mkdir /models && chown glm:glm /models \
 && echo 'PATH=/opt/glm/bin:$PATH' >/etc/profile.d/glm.sh \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

# -- what is installed: made in these stages, copied out of them; nothing else of them stays ---------------------------

FROM base AS pip
WORKDIR /build
COPY requirements.lock requirements-torch.lock image/layers.sh ./
# An index of your own, its address and password: mount pip's configuration for the build, and it is in no layer.
ARG PIP_CONFIG_FILE=/etc/pip.conf
ENV PIP_CONFIG_FILE=${PIP_CONFIG_FILE} \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    SOURCE_DATE_EPOCH=1577836800
RUN python3 -m venv /opt/pip \
 && sed -n '/^setuptools==/,/[^\\]$/p' requirements.lock >setuptools.lock \
 && /opt/pip/bin/pip install --quiet --require-hashes --no-deps --requirement setuptools.lock \
 && python3 -m venv --without-pip /opt/glm

FROM pip AS cpu-libraries
# Where torch is found without its CUDA libraries; empty: pip's own index. It is the only package without a known hash:
# the files there are not PyPI's. Its dependencies are all installed before.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN /opt/pip/bin/pip --python /opt/glm/bin/python3 install --quiet --require-hashes --no-deps --requirement requirements.lock \
 && /opt/pip/bin/pip --python /opt/glm/bin/python3 install --quiet ${TORCH_INDEX:+--extra-index-url ${TORCH_INDEX}} \
      "$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-torch.lock)" \
 && rm -f /opt/glm/lib/python3*/site-packages/bitsandbytes/libbitsandbytes_cuda*.so \
 && bash layers.sh

FROM pip AS gpu-libraries
RUN /opt/pip/bin/pip --python /opt/glm/bin/python3 install --quiet --require-hashes --no-deps \
      --requirement requirements.lock --requirement requirements-torch.lock \
 && bash layers.sh

FROM pip AS package
COPY pyproject.toml README.md LICENSE ./
COPY serve_app serve_app
RUN /opt/pip/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/pip/bin/pip --python /opt/glm/bin/python3 install --quiet --no-deps --no-index dist/*.whl \
 && bash layers.sh

# -- what runs ---------------------------------------------------------------------------------------------------------

FROM base AS runtime
LABEL org.opencontainers.image.title="GLM Vision Serve" \
      org.opencontainers.image.description="Questions about pictures, answered by GLM vision models" \
      org.opencontainers.image.licenses="Apache-2.0"
# HOME is where libraries put their caches; with a read-only root, /tmp is all that can be written.
# TORCHDYNAMO_DISABLE: nothing is compiled by torch, and bitsandbytes would look for a compiler at each call on a CPU.
ENV PATH=/opt/glm/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/models/huggingface \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TORCHDYNAMO_DISABLE=1 \
    GLM_HTTP__HOST=0.0.0.0
WORKDIR /tmp
USER 10001:10001
VOLUME /models
EXPOSE 8000
# For containers run by hand; Kubernetes has its own probes and ignores it.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
  CMD ["/bin/bash", "-c", "wget -q -T 4 -t 1 -O /dev/null http://127.0.0.1:${GLM_HTTP__PORT:-8000}/readyz"]
CMD ["glm-serve", "up", "--json-logs"]

FROM runtime AS cpu
COPY --from=cpu-libraries /layers/torch/ /
COPY --from=cpu-libraries /layers/libraries/ /
COPY --from=package /layers/libraries/ /

FROM runtime AS gpu
# Triton compiles its driver module once with a C compiler; without one the engine runs at half the speed.
USER root
RUN apt-get update -qq \
 && apt-get install -qq -y --no-install-recommends gcc libc6-dev >/dev/null \
 && apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/ldconfig/aux-cache /var/log/* \
 && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
USER 10001:10001
# Compiled kernels are kept beside the models. Where that is read-only, they are compiled at each start.
ENV TRITON_CACHE_DIR=/models/triton
# The CUDA runtime comes with torch's own wheels; the driver's libraries come from the node, by these two names.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=gpu-libraries /layers/torch/ /
COPY --from=gpu-libraries /layers/libraries/ /
COPY --from=package /layers/libraries/ /
