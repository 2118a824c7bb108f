#!/usr/bin/env bash
# A cohort as a SLURM array: every array task works on the same job directory in a folder that all nodes share, and takes
# the slides that no other has. Array tasks may start late, die or be requeued; those that run go on with what is left.
#
#   sbatch --array=0-7 --gres=gpu:1 --cpus-per-task=8 --mem=32G scripts/slurm_array.sh \
#     --task all --wsi-dir /shared/slides --job-dir /shared/job --skip-errors --patch-encoder uni_v1 --mag 20 --patch-size 256
#
# The options are those of RunCohort, as for `luigi`. PROJECT_HOME: folder of the project with its .venv (by default the
# one from which sbatch is called). LUIGID_URL: address of a luigid, such as http://head:8082; without one the array
# tasks share the work by the locks in the job directory alone.
#SBATCH --job-name=trident
#SBATCH --output=trident-%A_%a.log
#SBATCH --requeue
set -euo pipefail

for option in "$@"; do
  case "$option" in
  --overwrite*)
    echo 'error: --overwrite in an array would have every array task make everything anew; run it once, by itself' >&2
    exit 2
    ;;
  esac
done
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "error: this is a SLURM job: submit it with: sbatch --array=0-7 $0 ... (the head of the file has an example)" >&2
  exit 2
fi
cd "${PROJECT_HOME:-$SLURM_SUBMIT_DIR}"
if [ -n "${LUIGID_URL:-}" ]; then
  scheduler=(--scheduler-url "$LUIGID_URL")
else
  scheduler=(--local-scheduler)
fi
# GPUs that SLURM grants are in CUDA_VISIBLE_DEVICES, and --gpus counts among them. Without any: the CPU.
devices=(--gpus=-1)
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  granted=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .)
  devices=("--gpus=$(seq -s ' ' 0 $((granted - 1)))")
fi
# srun passes SLURM's SIGTERM on to the run, which then stops cleanly and gives its slides back.
srun --ntasks=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" .venv/bin/luigi --module luigi_tasks RunCohort "${scheduler[@]}" "${devices[@]}" \
  --max-workers "${SLURM_CPUS_PER_TASK:-1}" "$@"
