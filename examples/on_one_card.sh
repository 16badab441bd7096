#!/usr/bin/env bash
# Measures everything that docs/performance.md lists for one NVIDIA card, in at
# most ten minutes. The most important steps come first; the last line names the
# steps that did not fit in. It needs JAX with CUDA, PyTorch and timm or
# transformers, but neither TensorFlow nor a data set.
#
#   OUT=results examples/on_one_card.sh
#
# To try it without a card, set MODELS, BATCH, DTYPE, ROUNDS, ATTENTION, TARGET:
#   MODELS=ViT-Ti_16 BATCH=2 DTYPE=float32 ROUNDS=1 ATTENTION=xla TARGET= ...
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-results}
MODELS=${MODELS:-ViT-B_16 BiT-M-R50x1 ViT-L_16 R50+ViT-B_16}
BATCH=${BATCH:-64}
DTYPE=${DTYPE:-bfloat16}
ROUNDS=${ROUNDS:-5}
ATTENTION=${ATTENTION:-cudnn}
TARGET=${TARGET-h100}
LIMIT=${LIMIT:-570}
mkdir -p "$OUT"
missed=()

# step NAME SECONDS COMMAND...: runs the command if SECONDS are left.
step() {
  local name=$1 seconds=$2 left=$((LIMIT - SECONDS))
  shift 2
  if ((left < seconds)); then
    missed+=("$name")
    return
  fi
  echo "--- $name, $left s left"
  timeout "$left" "$@" </dev/null 2>&1 | tee "$OUT/$name.txt" || missed+=("$name")
}

benchmark=(python -m vit_jax_repro.benchmark)
common=(--dtypes="$DTYPE" --batch_sizes="$BATCH")

# Computes the bounds in the background, because the compiler needs no card.
if [[ -n $TARGET ]]; then
  "${benchmark[@]}" memory "${common[@]}" --target="$TARGET" \
    --models="${MODELS// /,}" --json="$OUT/bounds.json" \
    >"$OUT/bounds.txt" 2>&1 </dev/null &
fi
step attention 20 python examples/attention_padding.py \
  --implementation="$ATTENTION" --batch_size="$BATCH" --rounds="$ROUNDS" \
  --json="$OUT/attention.json"
for model in $MODELS; do
  step "train-$model" 80 "${benchmark[@]}" train "${common[@]}" \
    --models="$model" --rounds="$ROUNDS" --against=torch \
    --json="$OUT/train-$model.json"
done
for model in $MODELS; do
  step "profile-$model" 40 "${benchmark[@]}" profile "${common[@]}" \
    --models="$model" --rounds=3 --json="$OUT/profile-$model.json"
  step "infer-$model" 60 "${benchmark[@]}" infer --dtypes="$DTYPE" \
    --batch_sizes=$((4 * BATCH)) --models="$model" --rounds="$ROUNDS" \
    --against=torch --json="$OUT/infer-$model.json"
done
wait
nvidia-smi --query-gpu=name,driver_version --format=csv >"$OUT/card.txt" 2>&1
echo "--- $SECONDS s; not measured: ${missed[*]:-nothing}"
