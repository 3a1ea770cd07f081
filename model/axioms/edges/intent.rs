//! What a broker says that it has consumed with a batch.

use super::{Edge, Reg, Test, when};
use llmp::core::order::Site;

pub const EDGES: &[Edge] = &[
    Edge {
        name: "intent",
        // A consumed position of a pending batch is found with that batch's begin, at which nothing
        // is published.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![s.store("e", 1, Site::IntentBegin), s.store("t", 1, Site::IntentConsumed)],
                vec![
                    s.load(0, "t", Site::IntentConsumedRead),
                    when(0, 1, vec![s.load(1, "e", Site::IntentBeginRead)]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)]],
        },
        covered: &[
            (Site::IntentBegin, "IntentConsumed follows it and is a release"),
            (Site::IntentBeginRead, "IntentConsumedRead precedes it and is an acquire"),
        ],
    },
    Edge {
        name: "intent-cursor",
        // The begin of a pending batch replaces that of the last one, whose cursor is found then.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![s.store("k", 1, Site::CursorPublish), s.store("e", 1, Site::IntentBegin)],
                vec![
                    s.load(0, "e", Site::IntentBeginRead),
                    when(0, 1, vec![s.load(1, "k", Site::CursorRead)]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)]],
        },
        covered: &[
            (Site::CursorPublish, "IntentBegin follows it and is a release"),
            (Site::CursorRead, "IntentBeginRead precedes it and is an acquire"),
        ],
    },
    Edge {
        name: "intent-published",
        // A batch is found with its intent.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![
                    s.store("e", 1, Site::IntentBegin),
                    s.store("t", 1, Site::IntentConsumed),
                    s.store("c", 1, Site::CommitPublish),
                ],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(
                        0,
                        1,
                        vec![
                            s.load(1, "t", Site::IntentConsumedRead),
                            s.load(2, "e", Site::IntentBeginRead),
                        ],
                    ),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)], vec![Reg(1, 0, 1), Reg(1, 2, 0)]],
        },
        covered: &[
            (Site::IntentBegin, "CommitPublish follows it and is a release"),
            (Site::IntentConsumed, "CommitPublish follows it and is a release"),
            (Site::IntentConsumedRead, "CommitRead precedes it and is an acquire"),
            (Site::IntentBeginRead, "CommitRead precedes it and is an acquire"),
        ],
    },
];
