//! Verdicts for RC11 and for C11.

use crate::models::Verdict::{self, Allowed, Forbidden, Racy};

const A: Option<Verdict> = Some(Allowed);
const F: Option<Verdict> = Some(Forbidden);
const UNDEFINED: Option<Verdict> = Some(Racy);
const NONE: Option<Verdict> = None;

/// A test with its verdicts. `None` where no source has one.
type Test = (&'static str, &'static str, Option<Verdict>, Option<Verdict>, &'static str);

/// Name, program, verdict of RC11 as published, verdict of C11 without an axiom against thin-air
/// values, source.
pub const TESTS: &[Test] = &[
    // Load buffering.
    ("lb", "Rx1 Wy1 | Ry1 Wx1", F, A, "PLDI17; POPL15"),
    ("cyc", "Rx1 ctrl Wy1 | Ry1 ctrl Wx1", F, A, "Dat3M; POPL15"),
    ("C13", "Ry1 Wxr | Rx1 Wyr", F, A, "herd/tests/instructions/C; mmfix"),
    ("imm-E3.3", "Rx1 Wy1.rel | Ry1 Wx1.rel", F, A, "Dat3M"),
    ("imm-E3.4", "Rx1.acq Wy1.rel | Ry1.acq Wx1.rel", F, F, "Dat3M"),
    ("imm-E3.6", "Rx1 Wy1.rel Ry1 Wzr | Rz1 Wxr", F, A, "Dat3M"),
    ("amp-lrlx-srlx-lrlx-srlx", "Ry1 Wx1 | Rx1 ctrl Wy1", NONE, A, "mmfix"),
    ("amp-lrlx-srlx-lacq-srlx", "Ry1 Wx1 | Rx1.acq ctrl Wy1", NONE, A, "mmfix"),
    ("amp-lrlx-srel-lrlx-srlx", "Ry1 Wx1.rel | Rx1 ctrl Wy1", NONE, A, "mmfix"),
    ("amp-lna-srel-lacq-sna", "Ry1.na Wx1.rel | Rx1.acq ctrl Wy1.na", NONE, F, "mmfix"),
    ("amp-lna-frel-srlx-lrlx-facq-sna", "Ry1.na frel Wx1 | Rx1 facq ctrl Wy1.na", NONE, F, "mmfix"),
    ("amp-lna-srlx-lacq-sna", "Ry1.na Wx1 | Rx1.acq ctrl Wy1.na", NONE, UNDEFINED, "mmfix"),
    ("amp-lna-srel-lrlx-sna", "Ry1.na Wx1.rel | Rx1 ctrl Wy1.na", NONE, UNDEFINED, "mmfix"),
    // Message passing.
    ("imm-E3.1", "Wx1 Wy1.rel | Ry1.acq Rx0", F, F, "Dat3M"),
    ("mp-srlx-srlx-lrlx-lrlx", "Wy1 Wx1 | Rx1 ctrl Ry0", NONE, A, "mmfix"),
    ("mp-srlx-srlx-lacq-lrlx", "Wy1 Wx1 | Rx1.acq ctrl Ry0", NONE, A, "mmfix"),
    ("mp-srlx-srel-lrlx-lrlx", "Wy1 Wx1.rel | Rx1 ctrl Ry0", NONE, A, "mmfix"),
    ("mp_relacq", "Wx1.na Wy1.rel | Ry1.acq ctrl Rx0.na", F, F, "Dat3M; mmfix"),
    ("mp_fences", "Wx1.na frel Wy1 | Ry1 facq ctrl Rx0.na", F, F, "Dat3M; mmfix"),
    ("mp-sna-frel-srlx-lacq-lna", "Wy1.na frel Wx1 | Rx1.acq ctrl Ry0.na", NONE, F, "mmfix"),
    ("mp-sna-srel-lrlx-facq-lna", "Wy1.na Wx1.rel | Rx1 facq ctrl Ry0.na", NONE, F, "mmfix"),
    ("mp-sna-srlx-lrlx-lna", "Wy1.na Wx1 | Rx1 ctrl Ry0.na", NONE, UNDEFINED, "mmfix"),
    ("mp-sna-srlx-lacq-lna", "Wy1.na Wx1 | Rx1.acq ctrl Ry0.na", NONE, UNDEFINED, "mmfix"),
    ("mp-sna-srel-lrlx-lna", "Wy1.na Wx1.rel | Rx1 ctrl Ry0.na", NONE, UNDEFINED, "mmfix"),
    // Release sequences: with C++20 a later relaxed store of the same thread ends them.
    (
        "rseq_weak",
        "Wx2 | Wy1.na Wx1.rel Wx3 | Rx3.acq ctrl Ry.na ; x=3 y=1",
        A,
        NONE,
        "POPL15, RSnew",
    ),
    ("mp-rs.cpp17", "Wy1.na Wx1.rel Wx2 | Rx2.acq ctrl Ry0.na", NONE, UNDEFINED, "mmfix"),
    // One word.
    ("coRR", "Wx1 | Rx1 ctrl Rx0", NONE, F, "mmfix"),
    ("coRR-srel-lacq-na", "Wx1.rel | Rx1.acq ctrl Rx0.na", NONE, F, "mmfix"),
    // Sequentially consistent accesses and fences.
    ("a4", "Wx1.sc Ry0.sc | Wy1.sc Rx0.sc", F, F, "Dat3M; POPL15"),
    ("a4_reorder", "Ry0.sc Wx1.sc | Wy1.sc Rx0.sc", A, A, "Dat3M; POPL15"),
    ("2+2W", "Wx1.sc Wy2.sc Ry1 | Wy1.sc Wx2.sc Rx1", F, F, "PLDI17; mmfix"),
    ("iriw_sc", "Wx1.sc | Wy1.sc | Rx1.sc Ry0.sc | Ry1.sc Rx0.sc", F, NONE, "Dat3M"),
    ("iriw_relacq", "Wx1.rel | Wy1.rel | Rx1.acq Ry0.acq | Ry1.acq Rx0.acq", A, A, "Dat3M"),
    ("iriw-acq-sc", "Wx1.sc | Rx1.acq Ry0.sc | Ry1.acq Rx0.sc | Wy1.sc", A, A, "PLDI17; mmfix"),
    ("imm-E3.8", "Rx1.acq fsc Ry0.acq | Wx1.rel | Wy1.rel | Ry1.acq fsc Rx0.acq", F, NONE, "Dat3M"),
    ("RWC-sc-acq-sc-sc-sc", "Wx1.sc | Rx1.acq Ry0.sc | Wy1.sc Rx0.sc", A, NONE, "Dat3M"),
    ("rwc+syncs", "Wx1 | Rx1 fsc Ry0 | Wy1 fsc Rx0.sc", F, F, "PLDI17; mmfix"),
    ("sb+rfis", "Wx1.rel Rx1.sc Ry0.sc | Wy1.rel Ry1.sc Rx0.sc", A, A, "PLDI17; mmfix"),
    ("wwmerge", "Rx2.acq Ry0.sc | Wx1.sc Wx2.sc | Wy1.sc Rx0.sc", A, A, "PLDI17; mmfix"),
    ("example1", "Wx1 | Rx1 Rx2 | Wx2.sc Ry0.sc | Wy1.sc Rx1.sc", F, NONE, "Dat3M"),
];
