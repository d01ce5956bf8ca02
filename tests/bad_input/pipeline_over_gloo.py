"""A pipeline in a job without MPI."""

import keras

import hvdkit as hvd

hvd.init()
hvd.set_mesh(hvd.Mesh(pipeline=hvd.size()))
model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(4))])
hvd.parallel.PipelineModel(model, micro_batches=2)
