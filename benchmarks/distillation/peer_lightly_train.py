"""One distillation by lightly-train; run by `peers.py` in an environment of its own.

    python peer_lightly_train.py '{"data": …, "teacher": …, "student": …, "out": …, …}'

lightly-train is under the AGPL: this file calls its documented function, and nothing of edgessl
is imported here.
"""

import json
import sys
import time

import lightly_train
import torch


def main() -> None:
    """Distil; the last line of stdout is a JSON object."""
    request = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    # The module, with its first weights, that edgessl's arm starts from as well.
    student = torch.load(request["student"], weights_only=False)
    rate = {} if request["learning_rate"] is None else {"lr": request["learning_rate"]}
    started = time.monotonic()
    lightly_train.pretrain(
        out=request["out"],
        data=request["data"],
        model=student,
        method="distillation",
        method_args={
            "teacher": f"timm/{request['backbone']}",
            "teacher_args": {"num_classes": 0},
            "teacher_weights": request["teacher"],
        },
        epochs=request["epochs"],
        batch_size=request["batch_size"],
        num_workers=0,
        devices=1,
        accelerator="cpu",
        precision="32-true",
        seed=request["seed"],
        optim="adamw",
        optim_args=rate,
        transform_args={"image_size": (request["image_size"], request["image_size"])},
        overwrite=True,
    )
    torch.save(student.state_dict(), request["weights"])
    versions = {"lightly-train": lightly_train.__version__, "torch": torch.__version__}
    print(json.dumps({"train_s": time.monotonic() - started, "versions": versions}))


if __name__ == "__main__":
    main()
