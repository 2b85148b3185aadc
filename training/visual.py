"""Train the demo SAM 2."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

SIZE = 256
WIDTH = 96
EMBED = 24
IMAGES = 4
CLICKS, BOXES = 5, 3
CORRECTIONS = 8
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)


def config() -> dict[str, Any]:
    d, m, p = WIDTH, "sam2.modeling.", "sam2.modeling.position_encoding.PositionEmbeddingSine"
    sine = lambda n: dict(_target_=p, num_pos_feats=n, normalize=True, scale=None, temperature=10000)
    att = dict(
        _target_=m + "sam.transformer.RoPEAttention", rope_theta=10000.0, feat_sizes=[16, 16],
        embedding_dim=d, num_heads=1, downsample_rate=1, dropout=0.1,
    )
    return dict(
        _target_=m + "sam2_base.SAM2Base",
        image_encoder=dict(
            _target_=m + "backbones.image_encoder.ImageEncoder", scalp=1,
            trunk=dict(
                _target_=m + "backbones.hieradet.Hiera", embed_dim=EMBED, num_heads=1,
                stages=[1, 1, 3, 1], global_att_blocks=[3, 4], window_spec=[8, 8, 16, 8],
                window_pos_embed_bkg_spatial_size=[8, 8],
            ),
            neck=dict(
                _target_=m + "backbones.image_encoder.FpnNeck", position_encoding=sine(d),
                d_model=d, backbone_channel_list=[EMBED * 8, EMBED * 4, EMBED * 2, EMBED],
                fpn_top_down_levels=[0, 1, 2, 3], fpn_interp_model="nearest",
            ),
        ),
        memory_attention=dict(
            _target_=m + "memory_attention.MemoryAttention", d_model=d, pos_enc_at_input=True,
            layer=dict(
                _target_=m + "memory_attention.MemoryAttentionLayer", activation="relu",
                dim_feedforward=64, dropout=0.1, pos_enc_at_attn=False, d_model=d,
                self_attention=att, pos_enc_at_cross_attn_keys=True,
                pos_enc_at_cross_attn_queries=False,
                cross_attention=dict(att, rope_k_repeat=True, kv_in_dim=16),
            ),
            num_layers=1,
        ),
        memory_encoder=dict(
            _target_=m + "memory_encoder.MemoryEncoder", in_dim=d, out_dim=16,
            position_encoding=sine(16),
            mask_downsampler=dict(
                _target_=m + "memory_encoder.MaskDownSampler", embed_dim=d, kernel_size=4,
                stride=4, padding=0,
            ),
            fuser=dict(
                _target_=m + "memory_encoder.Fuser", num_layers=0,
                layer=dict(
                    _target_=m + "memory_encoder.CXBlock", dim=d, kernel_size=7, padding=3,
                    layer_scale_init_value=1e-6, use_dwconv=True,
                ),
            ),
        ),
        num_maskmem=1, image_size=SIZE, sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0, use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True, no_obj_embed_spatial=True,
        use_high_res_features_in_sam=True, multimask_output_in_sam=True,
        iou_prediction_use_sigmoid=True, use_obj_ptrs_in_encoder=True,
        add_tpos_enc_to_obj_ptrs=True, proj_tpos_enc_in_obj_ptrs=True,
        use_signed_tpos_enc_to_obj_ptrs=True, only_obj_ptrs_in_the_past_for_eval=True,
        pred_obj_scores=True, pred_obj_scores_mlp=True, fixed_no_obj_ptr=True,
        multimask_output_for_tracking=True, use_multimask_token_for_obj_ptr=True,
        multimask_min_pt_num=0, multimask_max_pt_num=1, use_mlp_for_obj_ptr_proj=True,
        compile_image_encoder=False,
    )


def init(model: nn.Module) -> None:
    for name, mod in model.named_modules():
        if isinstance(mod, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            w = mod.weight
            fan = w.shape[0] if isinstance(mod, nn.ConvTranspose2d) else w[0].numel()
            res = name.endswith((".proj", "out_proj", "mlp.layers.1")) and "patch" not in name
            nn.init.normal_(w, std=(0.5 if res else 1.0) * fan**-0.5)
            if mod.bias is not None:
                nn.init.zeros_(mod.bias)
    t = model.image_encoder.trunk
    nn.init.normal_(t.pos_embed, std=0.05)
    nn.init.normal_(t.pos_embed_window, std=0.05)
    g = model.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    g.copy_((g * 1.5).half().float())


@dataclass
class Batch:
    images: Tensor
    ids: Tensor  # [B,S,S]
    boxes: Tensor  # [B,9,4]
    clicks: Tensor  # [B*C,1,2]
    click_ids: Tensor
    box_points: Tensor  # [B*X,2,2]
    box_ids: Tensor


class Scenes:
    def __init__(self, pool: Path, rng: np.random.Generator):
        self.pool, self.rng = pool, rng
        self.img = np.load(pool / "img.npy", mmap_mode="r")
        self.ids = np.load(pool / "ids.npy", mmap_mode="r")

    def batch(self, n: int) -> Batch:
        rng = self.rng
        done = int((self.pool / "done").read_text())
        out = [self.one(int(i)) for i in rng.integers(0, done, n)]
        im, ids, boxes, cl, ci, bp, bi = (np.stack(z) for z in zip(*out))
        x = torch.from_numpy(im).permute(0, 3, 1, 2).float() / 255
        t = torch.from_numpy
        return Batch((x - MEAN) / STD, t(ids), t(boxes), t(cl).view(-1, 1, 2), t(ci).flatten(), t(bp).view(-1, 2, 2), t(bi).flatten())

    def one(self, i):
        rng = self.rng
        im, ids = np.asarray(self.img[i]), np.asarray(self.ids[i])
        k = int(rng.integers(4))
        im, ids = np.rot90(im, k), np.rot90(ids, k)
        if rng.random() < 0.5:
            im, ids = im[:, ::-1], ids[:, ::-1]
        im, ids = np.ascontiguousarray(im), np.ascontiguousarray(ids)
        boxes = np.zeros((9, 4), np.float32)
        have = []
        where = {}
        for j in range(1, int(ids.max()) + 1):
            m = ids == j
            xs, ys = np.flatnonzero(m.any(0)), np.flatnonzero(m.any(1))
            if len(xs) < 3 or len(ys) < 3:
                continue
            boxes[j] = xs[0], ys[0], xs[-1] + 1, ys[-1] + 1
            have.append(j)
            where[j] = m
        S = SIZE
        clicks = np.zeros((CLICKS, 2), np.float32)
        ci = np.zeros(CLICKS, np.int64)
        for c in range(CLICKS):
            j = int(rng.choice(have)) if have and rng.random() > 0.15 else 0
            m = where[j] if j else ids == 0
            ci[c] = j
            if j and rng.random() < 0.3:
                dist = cv2.distanceTransform(np.pad(m.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
                f = int(dist.argmax())
            else:
                q = np.flatnonzero(m)
                f = int(q[rng.integers(len(q))]) if len(q) else 0
            clicks[c] = f % S + rng.random(), f // S + rng.random()
        bp = np.zeros((BOXES, 4), np.float32)
        bi = np.zeros(BOXES, np.int64)
        for c in range(BOXES):
            j = int(rng.choice(have)) if have else 0
            b = boxes[j]
            bi[c] = j
            side = max(b[2] - b[0], b[3] - b[1])
            noise = rng.uniform(-0.5, 0.5, 4) if rng.random() < 0.5 else rng.normal(0, 0.05, 4) * side
            bp[c] = b + noise
        return im, ids, boxes, clicks, ci, bp, bi


class DenseHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Conv2d(WIDTH, 5, 1) for _ in range(3))

    def forward(self, fpn, ids, boxes):
        loss = fpn[0].new_zeros(())
        for head, f, s in zip(self.heads, fpn, (4, 8, 16)):
            o = head(f)
            lab = ids[:, s // 2 :: s, s // 2 :: s].long()
            n = lab.shape[1]
            fg = (lab > 0).float()
            loss = loss + F.binary_cross_entropy_with_logits(o[:, 0], fg)
            c = (torch.arange(n, device=f.device) + 0.5) * s
            xy = torch.stack([c[None, :].expand(n, n), c[:, None].expand(n, n)], -1)
            b = torch.gather(boxes, 1, lab.flatten(1)[..., None].expand(-1, -1, 4)).view(*lab.shape, 4)
            t = (b - torch.cat([xy, xy], -1)) / 32
            l = F.smooth_l1_loss(o[:, 1:].permute(0, 2, 3, 1), t, reduction="none", beta=0.25).mean(-1)
            loss = loss + (l * fg).sum() / (fg.sum() + 1)
        return loss


def encode(model, x):
    fpn = model.image_encoder(x)["backbone_fpn"]
    dec = model.sam_mask_decoder
    emb = fpn[2] + model.no_mem_embed.view(1, -1, 1, 1)
    return fpn, emb, [dec.conv_s0(fpn[0]), dec.conv_s1(fpn[1])]


def decode(model, emb, high, index, points, labels, masks=None, use_mask=None):
    enc = model.sam_prompt_encoder
    sparse, dense = enc(points=(points, labels), boxes=None, masks=masks)
    if use_mask is not None:
        dense = torch.where(use_mask[:, None, None, None], dense, enc.no_mask_embed.weight.view(1, -1, 1, 1))
    logits, iou, _, obj = model.sam_mask_decoder.predict_masks(
        image_embeddings=emb[index], image_pe=enc.get_dense_pe(), sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense, repeat_image=False, high_res_features=[h[index] for h in high])
    return logits, iou, obj


def losses(logits, iou, obj, target):
    """target [P,128,128]; returns loss, true ious [P,4]"""
    P = len(target)
    with torch.no_grad():
        up = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        hard, g = up > 0, target[:, None] > 0.5
        true = (hard & g).sum((2, 3)) / ((hard | g).sum((2, 3)) + 1e-6)
        p = up.sigmoid()
        dice = 1 - 2 * (p * target[:, None]).sum((2, 3)) / (p.sum((2, 3)) + target.sum((1, 2))[:, None] + 1)
        best = 1 + dice[:, 1:].argmin(1)
        best = torch.where(torch.rand(P, device=best.device) < 0.2, torch.randint(1, 4, (P,), device=best.device), best)
    sel = torch.stack([logits[:, 0], logits[torch.arange(P, device=best.device), best]], 1)
    up = F.interpolate(sel, scale_factor=2, mode="bilinear", align_corners=False)
    t = target[:, None].expand_as(up)
    area = target.sum((1, 2))[:, None]
    bce = F.binary_cross_entropy_with_logits(up, t, reduction="none").sum((2, 3)) / (area + 160)
    p = up.sigmoid()
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + area + 1)
    real = (area > 0).float()
    mask = ((0.5 * bce + dice) * real).sum() / (2 * real.sum() + 1e-6)
    quality = F.binary_cross_entropy(iou.clamp(1e-5, 1 - 1e-5), true.float())
    presence = F.binary_cross_entropy_with_logits(obj, real)
    return mask + 0.3 * quality + 0.1 * presence, true


def correction(rng, logits, target):
    """logits [P,64,64], target [P,128,128] -> points [P,1,2] (model pixels), labels [P,1]"""
    up = F.interpolate(logits[:, None], scale_factor=2, mode="bilinear", align_corners=False)[:, 0]
    hard, g = (up > 0).cpu().numpy(), (target > 0.5).cpu().numpy()
    pts, labs = [], []
    for h, t in zip(hard, g):
        fn, fp = t & ~h, h & ~t
        pos = fn.sum() >= fp.sum()
        m = fn if pos else fp
        if not m.any():
            m, pos = (t, True) if t.any() else (~t, False)
        if rng.random() < 0.5:
            d = cv2.distanceTransform(np.pad(m.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
            f = int(d.argmax())
        else:
            q = np.flatnonzero(m)
            f = int(q[rng.integers(len(q))])
        pts.append([(f % 128 + rng.random()) * 2, (f // 128 + rng.random()) * 2])
        labs.append([int(pos)])
    return torch.tensor(pts, dtype=torch.float32)[:, None], torch.tensor(labs)


def step(model, heads, b, rng):
    fpn, emb, high = encode(model, b.images)
    loss = 0.3 * heads(fpn, b.ids, b.boxes)
    stats = {"dense": loss.item()}
    pads = int(rng.choice(3, p=[0.6, 0.2, 0.2]))
    made = []
    for kind, pts, lab, ids, n in (
        ("click", b.clicks, [1], b.click_ids, CLICKS), ("box", b.box_points, [2, 3], b.box_ids, BOXES)):
        P = len(pts)
        index = torch.arange(P) // n
        own = (b.ids[index].long() == ids[:, None, None]) & (ids > 0)[:, None, None]
        target = F.avg_pool2d(own[:, None].float(), 2)[:, 0]
        labels = torch.tensor([lab]).expand(P, -1)
        if pads:
            pts = torch.cat([pts, torch.zeros(P, pads, 2)], 1)
            labels = torch.cat([labels, -torch.ones(P, pads, dtype=torch.long)], 1)
        logits, iou, obj = decode(model, emb, high, index, pts, labels)
        l, true = losses(logits, iou, obj, target)
        loss = loss + l * (0.6 if kind == "click" else 0.4)
        real = ids > 0
        pick = iou[:, 1:].argmax(1)
        got = true[torch.arange(P), 1 + pick]
        stats[kind] = got[real].mean().item()
        stats[kind + "_single"] = true[real, 0].mean().item()
        stats[kind + "_cal"] = (iou - true).abs().mean().item()
        if kind == "click" and (~real).any():
            stats["empty_q"] = iou[~real, 1:].max(1).values.mean().item()
        prev = torch.where((torch.rand(P) < 0.5)[:, None, None], logits[:, 0], logits[torch.arange(P), 1 + pick])
        made.append((pts, labels, index, target, prev.detach(), got, real))
    for k, (pts, labels, index, target, prev, got, real) in enumerate(made):
        n = CORRECTIONS * 5 // 8 if k == 0 else CORRECTIONS - CORRECTIONS * 5 // 8
        keep = (torch.rand(len(pts)) - (got < got.median()).float() * 0.5 + (~real).float() * 0.5).argsort()[:n]
        prev = prev[keep].clamp(-32, 32)
        cp, cl = correction(rng, prev, target[keep])
        use = torch.rand(n) < 0.8
        logits, iou, obj = decode(model, emb, high, index[keep], torch.cat([pts[keep], cp], 1), torch.cat([labels[keep], cl], 1), prev[:, None], use)
        l, true = losses(logits, iou, obj, target[keep])
        loss = loss + l * (0.3 if k == 0 else 0.15)
        r = real[keep]
        if k == 0 and r.any():
            stats["before"] = got[keep][r].mean().item()
            stats["after"] = true[r, 0].mean().item()
    stats["loss"] = float(loss)
    return loss, stats


def save(path: Path, obj: Any) -> None:
    tmp = path.with_name(path.name + ".tmp")
    torch.save(obj, tmp)
    os.replace(tmp, path)


def export(model: nn.Module, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    t = to / "config.yaml.tmp"
    t.write_text(OmegaConf.to_yaml(OmegaConf.create({"model": config()})))
    os.replace(t, to / "config.yaml")
    save(to / "model.pt", {"model": {k: v.detach().cpu().half() if v.is_floating_point() else v for k, v in model.state_dict().items()}})


def train(out: Path, pool: Path, minutes: float, to: Path, seed: int = 0) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    model = instantiate(OmegaConf.create(config()), _recursive_=True)
    with torch.no_grad():
        init(model)
    heads = DenseHeads()
    model.train()
    params = {n: p for n, p in model.named_parameters() if n.startswith(("image_encoder", "sam_")) or n == "no_mem_embed"}
    mats = [p for n, p in params.items() if p.ndim == 2 and ("trunk.blocks" in n or "transformer" in n and "mlp" not in n)]
    ids = {id(p) for p in mats}
    rest = [p for p in list(params.values()) + list(heads.parameters()) if id(p) not in ids]
    opts = [torch.optim.Muon(mats, lr=0.01, weight_decay=0.01, momentum=0.95, adjust_lr_fn="original"),
            torch.optim.AdamW(rest, lr=1.5e-3, betas=(0.9, 0.98), weight_decay=1e-3)]
    base = [0.01, 1.5e-3]
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995))
    it, spent = 0, 0.0
    if (out / "state.pt").exists():
        s = torch.load(out / "state.pt", weights_only=False)
        model.load_state_dict(s["model"]); heads.load_state_dict(s["heads"]); ema.load_state_dict(s["ema"])
        for o, z in zip(opts, s["opts"]):
            o.load_state_dict(z)
        it, spent = s["step"], s["spent"]
    scenes = Scenes(pool, rng)
    last, saved, window = time.time(), spent, []
    while spent < minutes * 60:
        share = spent / (minutes * 60)
        k = min(1, (it + 1) / 100) * (1 if share < 0.45 else max(0.02, (1 - share) / 0.55))
        for o, lr in zip(opts, base):
            for g in o.param_groups:
                g["lr"] = lr * k
        loss, stats = step(model, heads, scenes.batch(IMAGES), rng)
        for o in opts:
            o.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(params.values()) + list(heads.parameters()), 1.0)
        for o in opts:
            o.step()
        ema.update_parameters(model)
        it += 1
        now = time.time(); spent += now - last; last = now
        window.append(stats)
        if it % 50 == 0 or it == 10:
            mean = {q: round(float(np.mean([w[q] for w in window if q in w])), 4) for q in sorted({q for w in window for q in w})}
            window = []
            line = json.dumps({"step": it, "seconds": round(spent), **mean})
            print(line, flush=True)
            with (out / "curve.jsonl").open("a") as f:
                f.write(line + "\n")
        if spent - saved > 240 or it == 100:
            saved = spent
            save(out / "state.pt", {"model": model.state_dict(), "heads": heads.state_dict(), "ema": ema.state_dict(), "opts": [o.state_dict() for o in opts], "step": it, "spent": spent})
            export(ema.module, to)
    save(out / "state.pt", {"model": model.state_dict(), "heads": heads.state_dict(), "ema": ema.state_dict(), "opts": [o.state_dict() for o in opts], "step": it, "spent": spent})
    export(ema.module, to)


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
