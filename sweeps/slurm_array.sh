#!/usr/bin/env bash
# An array with one task for each GPU, of which each runs every N-th point of the sweep:
#   sbatch sweeps/slurm_array.sh sweeps/main
# To run some of the tasks again:
#   SHARDS=8 sbatch --array=3,5 sweeps/slurm_array.sh sweeps/main
#SBATCH --job-name=cmu_lightning
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --output=slurm-%A-%a.log
set -euo pipefail
# SLURM_NTASKS would make Lightning wait for further processes of this job.
unset SLURM_NTASKS SLURM_PROCID
exec python -m cmu_lightning sweep "$@" --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
