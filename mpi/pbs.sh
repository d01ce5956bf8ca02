#!/usr/bin/env bash
# PBS Pro / OpenPBS job. Submit it from the root of the repository:
#
#   qsub mpi/pbs.sh                                       # the example
#   qsub -v TRAIN="train.py --epochs 5" mpi/pbs.sh
#
# Edit: chunks (hosts), cores, ranks (mpiprocs) and cores of a rank
# (ompthreads = ncpus / mpiprocs), time; add your site's queue and account.
# ompthreads matters: without it PBS sets OMP_NUM_THREADS by a rule of its own,
# which knows nothing of mpiprocs. For GPUs add :ngpus=4 with mpiprocs=4.
#PBS -N hvdkit
#PBS -l select=2:ncpus=16:mpiprocs=4:ompthreads=4
#PBS -l place=scatter
#PBS -l walltime=01:00:00
#PBS -j oe
## #PBS -q NAME
## #PBS -A NAME
set -euo pipefail

# PBS starts in the home folder.
cd "${PBS_O_WORKDIR:-.}"

# Edit: load your site's modules here, when Horovod was built with its MPI.
# module load openmpi
if [[ -f .venv/bin/activate ]]; then
  # shellcheck source=/dev/null
  source .venv/bin/activate
fi

# A line for each rank, because of mpiprocs.
ranks=$(awk 'NF { n++ } END { print n + 0 }' "$PBS_NODEFILE")

# Edit: where ssh between the hosts is closed, let PBS start MPI's daemons.
# export PRTE_MCA_plm_ssh_agent=pbs_tmrsh   # Open MPI 5
# export OMPI_MCA_plm_rsh_agent=pbs_tmrsh   # Open MPI 4

read -r -a train <<<"${TRAIN:-examples/digits.py}"

# Edit: seconds until SIGUSR1, some time before the walltime ends. The ranks save
# (hvd.callbacks.BackupAndRestore) and the job ends with status 75. The same by
# hand: qsig -s SIGUSR1 JOB.
readonly seconds=3480

# The wrapper reads the hosts and slots from PBS_NODEFILE.
exec timeout --foreground --preserve-status --signal=USR1 "$seconds" \
  mpi/hvdkit-mpirun.sh -np "$ranks" -- python "${train[@]}"
