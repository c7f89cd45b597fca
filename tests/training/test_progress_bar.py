"""The estimate of the time that is left, in the line of each epoch."""

import keras

import hydra_tf
from hydra_tf.training.callbacks import progress_bar


def begun_bar(epochs, steps):
    net = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    bar = progress_bar.PhaseProgbar()
    bar.set_model(hydra_tf.RobustModel(net, "natural"))
    bar.set_params({"verbose": 0, "epochs": epochs, "steps": steps})
    bar.on_train_begin()
    return bar


def test_the_time_left_leaves_out_the_first_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_bar.time, "monotonic", lambda: now[0])
    bar = begun_bar(epochs=4, steps=4)
    labels = []
    for epoch in range(3):
        bar.on_epoch_begin(epoch)
        labels.append(str(bar.epochs).rpartition(", ")[2])
        for batch in range(4):
            now[0] += 100.0 if epoch == batch == 0 else 2.0
            bar.on_train_batch_end(batch)
        now[0] += 1.0  # the evaluation
        bar.on_epoch_end(epoch)
    # After epoch 0, 3 steps and the evaluation took 7 s: 7 / 0.75 * 3 epochs. After epoch 1,
    # 7 steps and two evaluations took 16 s: 16 / 1.75 * 2 epochs.
    assert labels == ["density 1", "about 28 s left", "about 18 s left"]


def test_the_first_step_alone_gives_no_estimate():
    bar = begun_bar(epochs=3, steps=1)
    bar.on_epoch_begin(0)
    bar.on_train_batch_end(0)
    bar.on_epoch_end(0)
    bar.on_epoch_begin(1)
    assert "left" not in str(bar.epochs)
