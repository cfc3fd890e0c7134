#!/usr/bin/env bash
# Makes of /opt/glm, just installed, what the image's layers are copied from: /layers/torch and /layers/libraries.
#
# What no service needs is taken out, the rest is compiled, and every file gets the same date: equal packages then are
# an equal layer, however often they are installed, and a registry or a node that has it does not fetch it again.
# torch and its CUDA libraries are a layer of their own: they are most of the image, and change least.
set -euo pipefail
export PYTHONHASHSEED=0 # the same bytecode each time
packages="$(echo /opt/glm/lib/python3*/site-packages)"

same_date() { find "$1" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; }

# Headers, Java archives, test programs and the libraries' own tests.
rm -rf "$packages"/torch/{include,share,test} "$packages"/ray/jars
find "$packages" -path '*/torch/bin/*' ! -name torch_shm_manager -prune -exec rm -rf {} +
find "$packages" -type d -name tests -prune -exec rm -rf {} +

same_date /opt/glm
# Some packages carry templates that are no Python; whatever is left uncompiled is compiled when it is imported.
python3 -m compileall -q -j 0 --invalidation-mode timestamp "$packages" >/dev/null || true

mkdir -p "/layers/torch$packages" /layers/libraries/opt
for name in torch nvidia triton; do
  if [[ -d $packages/$name ]]; then mv "$packages/$name" "/layers/torch$packages/"; fi
done
mv /opt/glm /layers/libraries/opt/
same_date /layers
