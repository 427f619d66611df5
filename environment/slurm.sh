#!/bin/bash
# sbatch --nodes=2 --gpus-per-node=8 --time=08:00:00 environment/slurm.sh recipes/e2e/qwen2_5_vl_7b.yaml [--key=value ...]
# Run in the repository's root, its environment active. Three minutes before the time is over, or when the job is
# preempted, the run saves a checkpoint and the job is queued again, where it resumes.
#SBATCH --job-name=rivegs
#SBATCH --ntasks-per-node=1
#SBATCH --signal=B:TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail
config=${CONFIG:-accelerate_configs/multi_node_zero2.yaml}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
stopped=
trap 'stopped=1; kill -TERM $step' TERM
# Each node's task knows its rank by SLURM_NODEID, which the batch shell does not have.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
  --config_file "$config" --num_machines "$SLURM_NNODES" --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
  --main_process_ip "$first" --main_process_port "${PORT:-29500}" -m rivegs_mllm.train "$@" &
step=$!
wait $step
code=$?
if [ -n "$stopped" ]; then # the signal ended the waiting, not yet the step
  wait $step
  scontrol requeue "$SLURM_JOB_ID"
fi
exit $code
