/*
 * report: what calibration found, kept in the archive and printed by `corm-prep report`.
 *
 * Owns: the form of the SCORES matrices in the predictors section; the tables, the short form, the
 * JSON.
 * Leaves to others: measuring (calib).
 */
#ifndef PREP_REPORT_H
#define PREP_REPORT_H

#include "format/corm_predict.h"
#include "format/corm_read.h"
#include "prep/calib/calib.h"

/* Add the scores of every layer with experts to the predictors. */
void report_add_scores(struct corm_predict_builder *b, const struct calib_result *r);
/* Append the report of an archive, as text or JSON. An archive without calibration is an error. */
int report_print(const struct corm *c, bool json, struct buf *out, struct err *err);
/* What calibration brought, in three lines: how many experts are guessed right one layer ahead, and
 * how many by the layer's own router on the earlier state; the energy of hot prefixes; the size of
 * the archive beside the same one uncompressed. Layers count alike. */
int report_brief(const struct corm *c, bool json, struct buf *out, struct err *err);

#endif
