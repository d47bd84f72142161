#!/bin/sh
# Data in, starter weights out: how verse3d/starter was made.
#
#   scripts/train_starter.sh DATA WORK [LEFT_OUT]
#
# DATA holds verse-mini/ (sub-verse005 to 008), auto-labelled/ (chest_ct, example_ct) and masks-only/ (three VerSe masks);
# docs/model-card.md says where each comes from. WORK gets scans, runs and scores. With LEFT_OUT, e.g. sub-verse008, a model is
# trained that has not seen this scan: that is how docs/model-card.md comes to its scores.
#
# The shipped weights come from one NVIDIA H200 and 16 cores that trained all of this at the same time, with four models
# that leave a scan out, and one with a channel per level: 6 minutes of drawing, preparing and tests, then 7. Its scout was
# refined afterwards, on two CPU cores, with the four expert scans and chest_ct as cases; those of the models that leave a
# scan out were not refined. Stage 3 ran on two CPU cores. These steps were run one by one and written down here; the script
# as a whole was not run again.
#
# Seeds: fixed by config and script. A GPU adds up in another order every time, so the same commands give weights of the same
# quality, not the same bits; runtime.deterministic=true gives the same bits, more slowly.
set -eu
data=$1 work=$2 left_out=${3:-none}
verse3d=${VERSE3D:-verse3d} python=${PYTHON:-python3} here=$(dirname "$0")
network="--mode 3d --config vertebrae --set network.channels=[16,32,64,128,192] --set scout.enabled=false --store $work/store"
mkdir -p "$work"

# What went in: every file with its hash, so that somebody else can see whether theirs are the same.
find "$data" -name '*.nii.gz' -type f -exec sha256sum {} + | sort -k 2 > "$work/inputs.sha256"
[ -e "$work/stage1.jsonl" ] || "$python" "$here/starter_data.py" "$data" "$work"

# The scout by itself: it needs thousands of steps, and many persons.
"$python" "$here/../benchmarks/scout.py" --minutes 7 --persons 160 --workers 8 --drawn "$work/persons" --device cuda \
    --cases "$work/scout.jsonl" --leave-out "$left_out" --phantoms 0 --out "$work/scout-$left_out.pt"

"$python" "$here/refine_scout.py" "$work/scout-$left_out.pt" --cases "$work/refine.jsonl" --minutes 9 --leave-out "$left_out"

# First synthetic scans and one chest, then real scans and a few synthetic ones.
[ -e "$work/stage1/best.pt" ] || "$verse3d" train $network --data "$work/stage1.jsonl" --out "$work/stage1" --max-minutes 2.3
"$verse3d" train $network --data "$work/stage2-$left_out.jsonl" --from "$work/stage1" --set optim.lr=1e-3 \
    --out "$work/stage2-$left_out" --max-minutes 4.4 --overwrite

# Real scans again, on two CPU cores in a quarter of an hour: thick slices are drawn more often. What the end has learnt is taken,
# because example_ct, whose mask another program made, would choose an earlier epoch; and half the way back to where stage 3 began,
# because by its end the network has forgotten skulls and pelves, of which these few scans show little.
"$verse3d" train $network --data "$work/stage3-$left_out.jsonl" --from "$work/stage2-$left_out" --set sampling.batch_size=2 \
    --set optim.lr=8e-4 --set optim.warmup_steps=20 --set optim.steps_per_epoch=60 --set optim.epochs=8 --set validation.every_epochs=4 \
    --set augment.thick_slices=0.3 --set augment.low_resolution=0.1 --device cpu --out "$work/stage3-$left_out" --overwrite

# Half precision, with the names of the cases and without their paths. Scored is what is shipped, not what was trained.
"$python" "$here/../benchmarks/scout.py" --steps 0 --out "$work/scout-$left_out.pt" --phantoms 4 \
    --scans "$data/verse-mini" "$data/auto-labelled" --into "$work/stage2-$left_out/best.pt"
"$python" "$here/pack_starter.py" "$work/stage3-$left_out" "$work/starter-$left_out" --last --average-with "$work/stage2-$left_out/best.pt" \
    --scout "$work/stage2-$left_out/best.pt" --lower-background "${LOWER:-0}"
if [ "$left_out" != none ]; then
    "$verse3d" predict "$data/verse-mini" --model "$work/starter-$left_out/best.pt" --out "$work/masks-$left_out" --overwrite
    "$verse3d" evaluate --pred "$work/masks-$left_out" --truth "$data/verse-mini" --out "$work/scores-$left_out.json"
fi
sha256sum "$work/stage3-$left_out/last.pt" "$work/starter-$left_out/best.pt" > "$work/outputs-$left_out.sha256"

# When all four have been left out: how much the background's logit is lowered (LOWER above), and the scores with that.
#   python scripts/lower_background.py DATA/verse-mini WORK/starter-sub-verse00? --work WORK
echo "if the scores are what you want: cp $work/starter-none/* verse3d/starter/, and write its hash and scores into docs/model-card.md"
