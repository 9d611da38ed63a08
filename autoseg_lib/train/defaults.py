"""The numbers behind the plan, in one place. Each has its source, or the benchmark it was found with."""

from __future__ import annotations

# --- how much is learned ------------------------------------------------------------------------------------------------

# Optimiser steps that the default networks need until validation Dice no longer rises much; measured on the example
# study, sunnybrook_png (2D) and hippocampus_msd (3D). See benchmarks/.
STEPS = {"2D": 1500, "3D": 4000}
FEWEST_EPOCHS, MOST_EPOCHS = 10, 1000
# Largest step of each optimiser.
LEARNING_RATE = {"muon": {"2D": 3e-3, "3D": 5e-3}, "adamw": {"2D": 1e-3, "3D": 2e-3}}

# --- images and patches -------------------------------------------------------------------------------------------------

# Longest side of the 2D network's image. 256 is what the field's notebooks use; a GPU affords twice that.
LARGEST_SIDE = {"cpu": 256, "gpu": 512}
# Voxels of a 3D patch. Where a whole scan has no more it is taken whole. nnU-Net's patches on a GPU have about as many.
PATCH_VOXELS = {"cpu": 64**3, "gpu": 128**3}
# Longest side of a whole scan on the 3D network's grid; finer scans are brought to coarser voxels.
LARGEST_SCAN = {"cpu": 192, "gpu": 512}

# 2D patches to learn from: so many times as long as the box around all ROIs of a slice, so that each is seen with its
# surroundings and beside its partner, and at least so many pixels; whole slices where that is most of the slice anyway.
# A trial on sunnybrook_cardiac, 1 minute each: Dice 0.88 with patches of 128², 0.75 with slices of 256².
PATCH_PER_ROIS_2D, SMALLEST_PATCH_2D, LARGEST_PATCH_SHARE_2D = 2.5, 128, 0.75
# Networks that answer alike for a part of an image and for the whole: convolutions, normalised over the batch.
PATCH_NETWORKS_2D, PATCH_ENCODERS_2D = (
    ("unet", "unetplusplus", "linknet", "fpn"),
    ("resnet", "resnext", "densenet", "vgg"),
)

# Images per step. Small batches learn more per minute where a step's time grows with its images, as on a CPU.
BATCH_2D = {"cpu": 4, "gpu": 16}
# 2D images with a longer side than this come in half as many per step.
LARGE_SIDE = 320
# 3D: hippocampus_msd after 2 minutes: Dice 0.875 with two patches per step, 0.869 with four.
BATCH_3D = {"cpu": 2, "gpu": 4}
# Of patches with more voxels than this half as many.
SMALL_PATCH_VOXELS = 96**3

# --- 3D epochs ----------------------------------------------------------------------------------------------------------

# An epoch draws as many patches from each scan as would cover it, at most so many: nnU-Net's epochs hold 500 patches.
MOST_PATCHES_PER_SCAN = 8
# An epoch has at least so many steps, so that it is worth reporting on.
FEWEST_STEPS_PER_EPOCH_3D = 10

# --- 2D or 3D -----------------------------------------------------------------------------------------------------------

# A whole-volume study counts as 3D when its slices lie at most so many times further apart than its pixels.
MOST_ANISOTROPY_3D = 3.0
FEWEST_SLICES_3D = 8
# 2D: slices on each side that the network sees too.
NEIGHBOUR_SLICES = 0

# --- looking at the scans kept back --------------------------------------------------------------------------------------

# How often they are looked at in one run and on how many of them each time, as long as it takes no more than this share
# of the run (all of them at the end); with less time fewer scans, then less often.
LOOKS_PER_RUN, SCANS_PER_LOOK, SHARE_OF_LOOKS = 25, 12, 0.05
FEWEST_LOOKS, FEWEST_SCANS = 5, 3
# Learning from an image (forwards, backwards, optimiser) costs so many times as much as predicting it ...
LEARNING_COST = 3.0
# ... and bringing an answer back onto the scan's own pixels and scoring it so much of predicting as many pixels.
SCORING_COST = 0.3

# --- memory -------------------------------------------------------------------------------------------------------------

# Share of the free memory that training may take: the rest is for reading scans, for scoring and for other programs.
MEMORY_SHARE = {"cpu": 0.6, "gpu": 0.9}
# Share of the free memory that prepared scans may take before they are kept on disk.
CACHE_SHARE = 0.4

# --- measuring ----------------------------------------------------------------------------------------------------------

# Seconds spent at most on measuring this computer, and their share of a time limit.
MEASURING_SECONDS, MEASURING_SHARE = 15.0, 0.05

# Settings that belong to the computer, not to the run: a run may go on elsewhere.
MACHINE_SETTINGS = ("precision", "num_workers", "model_dir", "cache")

# In a run of fewer steps than this the scans kept back stay unseen to its end, however few patients there are.
FEWEST_STEPS_TO_LEARN_ALL = 50
