"""What a run leaves behind beside its checkpoints, in LOG_DIR/NAME: log.jsonl, tensorboard events and pictures, settings, source and machine."""

import fcntl
import json
import os
import zipfile

import numpy as np
import tensorboardX
import torch

import network
import pictures
import settings
from settings import UserError

HERE = os.path.dirname(os.path.abspath(__file__))


class Log:
    """tensorboard events and log.jsonl of the run; nothing in processes but the first."""

    def __init__(self, place, step):
        self.writer = None
        if place.rank == 0:
            folder = os.path.join(settings.LOG_DIR, settings.NAME)
            os.makedirs(folder, exist_ok=True)
            path, lines = os.path.join(folder, 'log.jsonl'), []
            if os.path.isfile(path):
                with open(
                    path
                ) as f:  # steps that a killed run had done since its checkpoint come again
                    lines = [
                        line
                        for line in f
                        if line.endswith('}\n') and json.loads(line)['step'] <= step
                    ]
            self.file = open(path, 'a')
            try:
                fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f'{folder}: another process trains this run; stop it, or take another NAME'
                ) from None
            if os.path.getsize(path):
                self.file.truncate(0)
            self.file.writelines(lines)
            text = settings.as_text(settings.in_force())
            print(text)
            with open(os.path.join(folder, 'settings.py'), 'w', encoding='utf-8') as f:
                f.write(text)
            with zipfile.ZipFile(
                os.path.join(folder, 'source.zip'), 'w', zipfile.ZIP_DEFLATED
            ) as z:
                for path in sorted(
                    os.path.join(d, f)
                    for d in ('', 'baselines', 'sync_bn')
                    for f in os.listdir(os.path.join(HERE, d))
                ):
                    if path.endswith('.py'):
                        z.write(os.path.join(HERE, path), path)
            with open(os.path.join(folder, 'machine.json'), 'w') as f:
                json.dump(place.facts(), f)
            self.writer = tensorboardX.SummaryWriter(folder, purge_step=step + 1 if step else None)
            self.writer.add_text('settings', f'```\n{text}```\n{place.facts()}', step)

    def scalars(self, step, values):
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            self.file.write(json.dumps(dict(step=step, **values)) + '\n')
            self.file.flush()

    def picture(self, step, data):
        """on_image for evaluate(): images beside truth, prediction and errors."""

        def add(index, image, label, pred):
            if self.writer:
                label, pred, colours = label.numpy(), pred.numpy(), data.classes.colours
                row = [
                    image.permute(1, 2, 0).numpy(),
                    *(pictures.colour(x, colours) for x in (label, pred)),
                    pictures.errors(label, pred, len(data.names)),
                ]
                self.image(
                    f'val/{index}_input_truth_prediction_errors', np.concatenate(row, 1), step
                )

        return add

    def image(self, name, pixels, step):
        self.writer.add_image(name, pixels, step, dataformats='HWC')

    def validation(self, step, found, net, data, place):
        """Scores, of every class too; as pictures the confusion matrix and, of the first image, the attention maps of the bases."""
        self.scalars(
            step,
            {f'val/{k}': found[k] for k in ('mIoU', 'fIoU', 'pAcc', 'mAcc')}
            | {
                f'val/IoU/{name}': iou
                for name, iou in zip(data.names, found['class_iou'])
                if iou is not None
            },
        )
        if self.writer:
            self.image(
                'val/confusion', pictures.confusion(found['confusion'].numpy(), data.names), step
            )
            if settings.HEAD == 'ema':
                image = data[0][0]
                with torch.no_grad(), place.autocast():
                    z = (
                        network.fold(net)
                        .attention(image[None].to(place.device))[0]
                        .float()
                        .cpu()
                        .numpy()
                    )
                self.image(
                    'val/0_attention',
                    pictures.sheet(pictures.heat(image.permute(1, 2, 0).numpy(), z, 160), 8, 160),
                    step,
                )
