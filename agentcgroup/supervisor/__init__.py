# SPDX-License-Identifier: Apache-2.0
"""Early termination: features of a run's steps, predictor, calibration, decision, evaluation."""
