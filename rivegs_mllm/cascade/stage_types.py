"""Imports every module that has a type of stage, so that a recipe can name it."""

import rivegs_mllm.cascade.entailment.base
import rivegs_mllm.cascade.entailment.caption
import rivegs_mllm.cascade.entailment.classifier
import rivegs_mllm.cascade.entailment.scorer
import rivegs_mllm.cascade.entailment.scorer_chat
import rivegs_mllm.cascade.entailment.scorer_late_interaction
import rivegs_mllm.cascade.entailment.scorer_pretrained
import rivegs_mllm.cascade.grounding.base
import rivegs_mllm.cascade.grounding.detector
import rivegs_mllm.cascade.grounding.florence2
import rivegs_mllm.cascade.grounding.late_interaction
import rivegs_mllm.cascade.grounding.seqtr
import rivegs_mllm.cascade.grounding.seqtr_training
import rivegs_mllm.cascade.grounding.vlm
import rivegs_mllm.cascade.knowledge.base
import rivegs_mllm.cascade.knowledge.encyclopedia
import rivegs_mllm.cascade.knowledge.expansion
import rivegs_mllm.cascade.knowledge.llm
import rivegs_mllm.cascade.mllm
import rivegs_mllm.cascade.segmentation.base
import rivegs_mllm.cascade.segmentation.sam
import rivegs_mllm.cascade.segmentation.segment_anything
import rivegs_mllm.cascade.segmentation.segment_anything_training
import rivegs_mllm.cascade.segmentation.seqtr
import rivegs_mllm.cascade.tagging.base
import rivegs_mllm.cascade.tagging.crf
import rivegs_mllm.cascade.tagging.hindex
import rivegs_mllm.cascade.tagging.umt
import rivegs_mllm.cascade.tagging.windows  # noqa: F401
