//! Verdicts for Armv8.

use crate::models::Verdict::{self, Allowed, Forbidden};

/// Tests that are named by their cycle: the source, the verdict, the names.
pub const CYCLES: &[(&str, Verdict, &str)] = &[
    (
        "herd",
        Forbidden,
        "2+2W+dmb.sys IRIW+dmb.lds LB+dmb.sys MP+dmb.sys MP+rel+acq MP+rel+acqpc R+dmb.sys S+dmb.sys \
         SB+dmb.sy+rel-acq SB+dmb.sys WRC+rel+addr",
    ),
    (
        "herd",
        Allowed,
        "2+2W 2+2W+dmb.sy+po IRIW ISA2 LB LB+dmb.sy+po MP MP+dmb.sy+po MP+po+dmb.sy R R+dmb.sy+po \
         R+po+dmb.sy RWC S S+dmb.sy+po S+po+dmb.sy SB SB+dmb.sy+po SB+dmb.sy+rel-acqpc WRC Z6.3",
    ),
    (
        "Dat3M",
        Forbidden,
        "2+2W+dmb.st+dmb.sy 2+2W+dmb.sts 2+2W+polls 2+2W+popl+poll 2+2W+popls IRIW+addrs IRIW+dmb.sys \
         ISA2+dmb.st+addr+addr ISA2+dmb.st+addr+dmb.sy ISA2+dmb.sy+addr+addr ISA2+poll+poal+poaa \
         ISA2+popl+data+addr ISA2+popl+poap+addr LB+addrs LB+ctrls LB+data+poal LB+data+poap \
         LB+data+popl LB+datas LB+dmb.ld+dmb.sy LB+dmb.lds LB+poals LB+poap+poal LB+poaps \
         LB+popl+poal LB+popl+poap LB+popls MP+dmb.st+dmb.ld MP+dmb.st+dmb.sy MP+dmb.sy+addr \
         MP+dmb.sy+ctrlisb MP+dmb.sy+dmb.ld MP+poll+addr MP+poll+poaa MP+poll+poap MP+popl+addr \
         MP+popl+poaa MP+popl+poap R+dmb.st+dmb.sy R+poll+pola R+popl+pola RWC+dmb.sys \
         S+dmb.st+dmb.ld S+dmb.st+dmb.sy S+dmb.sy+ctrl S+dmb.sy+data S+dmb.sy+dmb.ld S+poll+data \
         S+poll+poal S+poll+poap S+poll+popl S+popl+data S+popl+poal S+popl+poap S+popls SB+polas \
         W+RWC+dmb.sy+addr+pola W+RWC+poll+poaa+pola W+RWC+popl+poap+dmb.sy WRC+addrs WRC+dmb.ld+addr \
         WRC+dmb.ld+dmb.sy WRC+dmb.sy+addr Z6.1+poll+poll+poal Z6.2+poll+poal+poal \
         Z6.3+poll+poll+poaa Z6.4+poll+pola+pola",
    ),
    (
        "Dat3M",
        Allowed,
        "2+2W+dmb.ld+dmb.st 2+2W+dmb.ld+dmb.sy 2+2W+dmb.ld+po 2+2W+dmb.lds 2+2W+dmb.st+po \
         2+2W+po+poll 2+2W+po+polp 2+2W+po+popl 2+2W+polp+poll 2+2W+polps 2+2W+popl+polp LB+data+po \
         LB+dmb.ld+dmb.st LB+dmb.ld+po LB+dmb.st+dmb.sy LB+dmb.st+po LB+dmb.sts LB+po+poal LB+po+poap \
         LB+po+popl MP+dmb.ld+dmb.st MP+dmb.ld+dmb.sy MP+dmb.ld+po MP+dmb.lds MP+dmb.st+po MP+dmb.sts \
         MP+dmb.sy+ctrl MP+dmb.sy+dmb.st MP+po+addr MP+po+dmb.ld MP+po+dmb.st MP+po+poaa MP+po+poap \
         MP+po+popa MP+poll+po MP+poll+popa MP+polp+addr MP+polp+po MP+polp+poaa MP+polp+poap \
         MP+polp+popa MP+popl+po MP+popl+popa R+dmb.ld+dmb.st R+dmb.ld+dmb.sy R+dmb.ld+po R+dmb.lds \
         R+dmb.st+dmb.ld R+dmb.st+po R+dmb.sts R+dmb.sy+dmb.ld R+dmb.sy+dmb.st R+po+dmb.ld \
         R+po+dmb.st R+po+pola R+po+polp R+po+popa R+poll+po R+poll+polp R+poll+popa R+polp+po \
         R+polp+pola R+polp+popa R+polps R+popl+po R+popl+polp R+popl+popa S+dmb.ld+dmb.st \
         S+dmb.ld+dmb.sy S+dmb.ld+po S+dmb.lds S+dmb.st+po S+dmb.sts S+dmb.sy+dmb.st S+po+data \
         S+po+dmb.ld S+po+dmb.st S+po+poal S+po+poap S+po+popl S+poll+po S+polp+data S+polp+po \
         S+polp+poal S+polp+poap S+polp+popl S+popl+po SB+dmb.ld+dmb.st SB+dmb.ld+dmb.sy SB+dmb.ld+po \
         SB+dmb.lds SB+dmb.st+dmb.sy SB+dmb.st+po SB+dmb.sts SB+po+pola SB+po+polp SB+po+popa \
         SB+polp+pola SB+polps SB+popa+pola SB+popa+polp SB+popas WRC+dmb.st+addr",
    ),
    (
        "Dat3M, PPO",
        Forbidden,
        "MP+dmb.sy+addr-ctrl-ctrlisb MP+dmb.sy+addr-ctrlisb MP+dmb.sy+addr-pos-ctrlisb \
         MP+dmb.sy+addr-rfi-addr MP+dmb.sy+addr-rfi-ctrlisb MP+dmb.sy+ctrl-addr-ctrlisb \
         MP+dmb.sy+ctrl-ctrlisb MP+dmb.sy+ctrl-pos-ctrlisb MP+dmb.sy+ctrl-rfi-ctrlisb \
         MP+dmb.sy+data-rfi-addr MP+dmb.sy+data-rfi-ctrlisb MP+dmb.sy+pos-addr \
         MP+dmb.sy+pos-addr-ctrlisb MP+dmb.sy+pos-ctrl-ctrlisb MP+dmb.sy+pos-ctrlisb",
    ),
    (
        "Dat3M, PPO",
        Allowed,
        "MP+dmb.sy+addr-ctrl MP+dmb.sy+addr-ctrl-addr MP+dmb.sy+addr-pos-addr MP+dmb.sy+addr-pos-ctrl \
         MP+dmb.sy+addr-rfi-ctrl MP+dmb.sy+ctrl-addr MP+dmb.sy+ctrl-addr-ctrl MP+dmb.sy+ctrl-pos-addr \
         MP+dmb.sy+ctrl-pos-ctrl MP+dmb.sy+ctrl-rfi-addr MP+dmb.sy+ctrl-rfi-ctrl \
         MP+dmb.sy+data-rfi-ctrl MP+dmb.sy+fri-rfi-addr MP+dmb.sy+fri-rfi-ctrl \
         MP+dmb.sy+fri-rfi-ctrlisb MP+dmb.sy+pos-addr-ctrl MP+dmb.sy+pos-ctrl MP+dmb.sy+pos-ctrl-addr",
    ),
];

/// Tests of other shapes: name, program, verdict, source.
pub const TESTS: &[(&str, &str, Verdict, &str)] = &[
    ("CoRR", "Wx1 | Rx1 Rx0", Forbidden, "herd"),
    ("CoRW1", "Rx1 Wx1", Forbidden, "herd"),
    ("CoRW2", "Wx1 | Rx1 Wx2 ; x=1", Forbidden, "herd"),
    ("CoWR", "Wx1 Rx0", Forbidden, "herd"),
    ("CoWW", "Wx1 Wx2 ; x=1", Forbidden, "herd"),
    ("LB+rel+data", "Rx1 Wy1.rel | Ry1 data Wx1", Forbidden, "herd"),
    // Same-address loads: not ordered, unless a store of another thread comes between them.
    ("RSW", "Wx1 Wy1.rel | Ry1 addr Rz Rz addr Rx0", Allowed, "herd"),
    ("RDW", "Wx1 Wy1.rel | Ry1 addr Rz0 Rz1 addr Rx0 | Wz1", Forbidden, "herd"),
    ("MP+rel+addr-po-loc-addr", "Wx1 Wy1.rel | Ry1 addr Rz Rz addr Rx0", Allowed, "herd"),
    // A load that the thread's own store satisfies.
    ("MP+rel+addr-lrs-acq", "Wx1 Wy1.rel | Ry1 addr Wz1 Rz.acq Rx0", Forbidden, "herd"),
    ("MP+rel+data-lrs-acq", "Wx1 Wy1.rel | Ry1 data Wz1 Rz.acq Rx0", Forbidden, "herd"),
    ("MP+rel+ctrl-lrs-acq", "Wx1 Wy1.rel | Ry1 ctrl Wz1 Rz.acq Rx0", Allowed, "herd"),
    ("MP+popl+ctrl-rfi-addr", "Wx1 Wy1.rel | Ry1 ctrl Wz1 Rz1 addr Rx0", Allowed, "herd"),
    ("SB+rfi-dmb.ld+rfi-dmb.ld", "Wx1 Rx1 dmb.ld Ry0 | Wy1 Ry1 dmb.ld Rx0", Allowed, "herd"),
    // Three and four threads.
    ("W+RW+RR", "Wx1 | Rx1 Wy1 | Ry1 Rx0", Allowed, "herd"),
    ("R+WR+W+RW", "Rx1 | Wx2 Ry0 | Wy1 | Ry1 Wx1 ; x=2", Allowed, "herd"),
    ("W+RR+2W", "Wx2 | Rx2 Ry0 | Wy1 Wx1 ; x=2", Allowed, "herd"),
    // An address dependency orders all later stores: their addresses must be known first.
    ("LB+addrs+WW", "Rx1 addr Wy1 Wz1 | Rz1 addr Wa1 Wx1", Forbidden, "Dat3M, TUTO"),
    ("LB+data+data-wsi", "Rx2 data Wy1 | Ry1 data Wx1 Wx2 ; x=2", Forbidden, "Dat3M, HAND"),
];
