#!/usr/bin/env bash
# Build, check and time the CUDA kernels on a machine with a GPU and torch. Needs no network.
#
#   benchmarks/gpu_check.sh [--target DIR] OUTDIR [STEP ...]
#
# Steps, all of them by default: build cuda tests memcheck racecheck quick full. A step that fails does not stop the
# others. OUTDIR gets a log per step, the benchmarks' files and summary.md; the exit status is 0 if nothing failed.
# With --target the package is installed to that folder and used from there, else into the environment of $PYTHON
# (default python3). STEP_TIMEOUT is in seconds, per step (default 1800); DANCEOPD_CUDA goes to the build.
set -uo pipefail

STEPS=(build cuda tests memcheck racecheck quick full)
PYTHON=${PYTHON:-python3}
STEP_TIMEOUT=${STEP_TIMEOUT:-1800}

usage() {
  sed -n '4,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

target=""
if [[ ${1:-} == --target ]]; then
  [[ $# -ge 2 ]] || usage
  mkdir -p -- "$2" && target=$(cd -- "$2" && pwd) || exit 2
  shift 2
fi
[[ $# -ge 1 && ${1:-} != -* ]] || usage
mkdir -p -- "$1" && out=$(cd -- "$1" && pwd) || exit 2
shift
chosen=("$@")
[[ ${#chosen[@]} -gt 0 ]] || chosen=("${STEPS[@]}")
for step in "${chosen[@]}"; do
  [[ " ${STEPS[*]} " == *" $step "* ]] || { echo "unknown step '$step'; the steps are: ${STEPS[*]}" >&2; exit 2; }
done
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." || exit 2
[[ -z $target ]] || export PYTHONPATH="$target${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1

# -- the machine ---------------------------------------------------------------------------------------------------

gpu=$("$PYTHON" - 2>"$out/machine.log" <<'PY'
import torch
if torch.cuda.is_available():
    print(torch.cuda.get_device_name(0))
PY
) || { echo "$PYTHON cannot import torch; see $out/machine.log" >&2; exit 2; }
[[ -s $out/machine.log ]] || rm -f -- "$out/machine.log"
device=cuda
if [[ -z $gpu ]]; then
  device=cpu
  echo "no GPU: building for the CPU, and leaving out what needs a GPU"
fi

sanitizer=""
for candidate in "$(type -P compute-sanitizer)" "${CUDA_HOME:-}/bin/compute-sanitizer" \
    "${CUDA_PATH:-}/bin/compute-sanitizer" /usr/local/cuda/bin/compute-sanitizer \
    /usr/local/cuda/compute-sanitizer/compute-sanitizer; do
  if [[ -x $candidate ]]; then
    sanitizer=$candidate
    break
  fi
done

# -- the steps: each a function whose output is its log ------------------------------------------------------------

build() {
  local where=()
  [[ -z $target ]] || where=(--target "$target" --upgrade)
  # With a GPU a build without CUDA would make the rest pointless, so it has to fail.
  local kind=OFF
  [[ $device == cpu ]] || kind=ON
  DANCEOPD_CUDA=${DANCEOPD_CUDA:-$kind} "$PYTHON" -m pip install --disable-pip-version-check --no-input --no-index --verbose \
    --no-build-isolation --no-deps --force-reinstall "${where[@]}" .
}

cuda() {
  TARGET=$target "$PYTHON" - <<'PY'
import os, sys

import _danceopd
from danceopd import ops

info = ops.build_info()
print(_danceopd.__file__)
print(info)
target = os.environ["TARGET"]
if target and os.path.commonpath([target, _danceopd.__file__]) != target:
    sys.exit(f"The extension comes from {_danceopd.__file__}, not from {target}; use an environment without danceopd.")
if not info.cuda_built:
    sys.exit("The extension was built without CUDA.")
if not info.cuda_devices:
    sys.exit(f"The extension sees no CUDA device: {info.cuda_problem}")
print(f"{', '.join(info.cuda_devices)}; runtime {info.cuda_runtime}; built for {' '.join(info.cuda_archs)}")
PY
}

# Only files that have such tests, so that no other file's imports are needed here.
tests() {
  local files
  mapfile -t files < <(grep -rlE 'mark\.gpu\b' --include='test_*.py' tests)
  "$PYTHON" -m pytest -m gpu "${files[@]}"
}

# Every op on small operands, misaligned rows included. Without torch's cache each tensor is an allocation of its own,
# so that an access past its end is one past an allocation.
every_op() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 "$sanitizer" --tool "$@" --error-exitcode 9 --target-processes all \
    "$PYTHON" -c '
import sys
from danceopd import ops
results = [r for r in ops.self_test() if r.device.startswith("cuda")]
wrong = [r for r in results if not r.passed]
print(len(results), "results on CUDA,", len(wrong), "wrong:", *wrong)
sys.exit(bool(wrong) or not results)'
}

# torch asks the runtime questions whose answer may be an error; those of a launch raise an exception.
memcheck() { every_op memcheck --report-api-errors no; }
racecheck() { every_op racecheck; }
quick() { "$PYTHON" benchmarks/kernel_bench.py --quick --device "$device" --out "$out/kernel_bench_quick.json"; }
full() { "$PYTHON" benchmarks/kernel_bench.py --device "$device" --out "$out/kernel_bench.json"; }

# Why a step cannot run here; nothing if it can.
obstacle() {
  case $1 in
    cuda | tests | full) [[ $device == cuda ]] || echo "no GPU" ;;
    memcheck | racecheck)
      if [[ $device != cuda ]]; then
        echo "no GPU"
      elif [[ -z $sanitizer ]]; then
        echo "compute-sanitizer was found neither on PATH nor in the CUDA toolkit"
      fi
      ;;
  esac
}

# -- run them ------------------------------------------------------------------------------------------------------

export -f build cuda tests every_op memcheck racecheck quick full
export PYTHON target out device sanitizer
rows=()
failed=0
skipped=0
for step in "${chosen[@]}"; do
  log=$out/$step.log
  why=$(obstacle "$step")
  if [[ -n $why ]]; then
    skipped=$((skipped + 1))
    rows+=("| $step | not run | | $why |")
    echo "$step: not run, $why"
    continue
  fi
  started=$SECONDS
  timeout --kill-after=30 "$STEP_TIMEOUT" bash -c "set -uo pipefail; $step" >"$log" 2>&1 </dev/null
  status=$?
  took=$((SECONDS - started))
  # Lines that say something, without the colours and the bars that would break the table.
  last=$(sed 's/\x1b\[[0-9;]*m//g; s/|/\//g' "$log" | tr '\r' '\n' | grep '[[:alnum:]]' | tail -n 1 | cut -c 1-160)
  case $status in
    0) result=pass ;;
    124 | 137) result=FAIL last="stopped after $STEP_TIMEOUT s" ;;
    *) result=FAIL ;;
  esac
  [[ $result == pass ]] || failed=$((failed + 1))
  rows+=("| $step | $result | $took s | [log]($step.log): $last |")
  echo "$step: $result, $took s"
done

# -- the summary ---------------------------------------------------------------------------------------------------

first_line() { "$@" 2>/dev/null | head -n 1; }
{
  echo "# GPU check: $([[ $failed -eq 0 ]] && echo passed || echo "$failed failed")$([[ $skipped -eq 0 ]] || echo ", $skipped not run")"
  echo
  echo "- date: $(date -u '+%Y-%m-%d %H:%M UTC')"
  echo "- commit: $(git describe --always --dirty 2>/dev/null || echo unknown)"
  echo "- GPU: ${gpu:-no GPU}"
  echo "- driver: $(first_line nvidia-smi --query-gpu=driver_version --format=csv,noheader || echo none)"
  echo "- python: $("$PYTHON" -c 'import sys, torch; print(sys.version.split()[0] + ", torch", torch.__version__)')"
  echo "- nvcc: $(nvcc --version 2>/dev/null | sed -n 's/.*release //p' || echo none)"
  echo "- compute-sanitizer: ${sanitizer:-none}"
  echo
  echo "| step | result | time | last line |"
  echo "|---|---|---|---|"
  printf '%s\n' "${rows[@]}"
} >"$out/summary.md"
echo "summary: $out/summary.md"
[[ $failed -eq 0 ]]
