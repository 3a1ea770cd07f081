//! Edges of reuse: cursors, consumed positions, membership, retired pages.

use super::{Edge, Reg, Site, Sites, Test, read, write};
use crate::program::{Access, Step, load, store, when};

/// The receiver reads a page and releases it. The sender loads the cursor and writes the page again.
/// The read must not see that write, which comes after it. This is load buffering.
fn cursor(s: &Sites, payload: Access) -> Test {
    Test {
        init: vec![],
        threads: vec![
            vec![load(0, "p", payload), s.store("k", 1, Site::CursorPublish)],
            vec![s.load(0, "k", Site::CursorRead), when(0, 1, vec![store("p", 1, payload)])],
        ],
        forbidden: vec![vec![Reg(0, 0, 1)]],
    }
}

/// The same for a page of a client that the receiver reads by reference: the broker releases it.
fn cursor_by_reference(s: &Sites, payload: Access) -> Test {
    Test {
        init: vec![],
        threads: vec![
            vec![load(0, "p", payload), s.store("k", 1, Site::CursorPublish)],
            vec![
                s.load(0, "k", Site::CursorRead),
                when(0, 1, vec![s.store("b", 1, Site::CursorPublish)]),
            ],
            vec![s.load(0, "b", Site::CursorRead), when(0, 1, vec![store("p", 1, payload)])],
        ],
        forbidden: vec![vec![Reg(0, 0, 1)]],
    }
}

/// A removed reader copies two words of a page, then loads its member word.
fn copy(s: &Sites) -> Vec<Step> {
    vec![
        load(0, "p", Access::Relaxed),
        load(1, "q", Access::Relaxed),
        s.fence(Site::CopyFence),
        s.load(2, "a", Site::MemberRead),
    ]
}

fn write_again(s: &Sites) -> Vec<Step> {
    vec![s.fence(Site::ReuseFence), store("p", 1, Access::Relaxed), store("q", 1, Access::Relaxed)]
}

pub const EDGES: &[Edge] = &[
    Edge { name: "cursor", test: |s| cursor(s, Access::Plain), covered: &[] },
    Edge { name: "cursor-words", test: |s| cursor(s, Access::Relaxed), covered: &[] },
    Edge {
        name: "cursor-by-reference",
        test: |s| cursor_by_reference(s, Access::Plain),
        covered: &[],
    },
    Edge {
        name: "cursor-by-reference-words",
        test: |s| cursor_by_reference(s, Access::Relaxed),
        covered: &[],
    },
    Edge {
        name: "cursor-round",
        // A page is read, released, written again and read again: both edges together.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![
                    read(0, "p"),
                    s.store("k", 1, Site::CursorPublish),
                    s.load(1, "c", Site::CommitRead),
                    when(1, 1, vec![read(2, "p")]),
                ],
                vec![
                    s.load(0, "k", Site::CursorRead),
                    when(0, 1, vec![write("p", 1), s.store("c", 1, Site::CommitPublish)]),
                ],
            ],
            forbidden: vec![vec![Reg(0, 0, 1)], vec![Reg(0, 1, 1), Reg(0, 2, 0)]],
        },
        covered: &[],
    },
    Edge {
        name: "consumed",
        // A client whose flush has ended finds the flushed message in the broadcast chain.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![
                    write("p", 1),
                    s.store("c", 1, Site::CommitPublish),
                    s.store("t", 1, Site::ConsumedPublish),
                ],
                vec![
                    s.load(0, "t", Site::ConsumedRead),
                    when(
                        0,
                        1,
                        vec![s.load(1, "c", Site::CommitRead), when(1, 1, vec![read(2, "p")])],
                    ),
                ],
            ],
            forbidden: vec![
                vec![Reg(1, 0, 1), Reg(1, 1, 0)],
                vec![Reg(1, 0, 1), Reg(1, 1, 1), Reg(1, 2, 0)],
            ],
        },
        covered: &[
            (Site::CommitPublish, "ConsumedPublish follows it and is a release"),
            (Site::CommitRead, "ConsumedRead precedes it and is an acquire"),
        ],
    },
    Edge {
        name: "member-copy",
        // A removed reader that has copied any new byte finds that it was removed.
        test: |s| Test {
            init: vec![("a", 1)],
            threads: vec![
                [vec![s.store("a", 0, Site::MemberStore)], write_again(s)].concat(),
                copy(s),
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 2, 1)], vec![Reg(1, 1, 1), Reg(1, 2, 1)]],
        },
        covered: &[],
    },
    Edge {
        name: "member-copy-by-reference",
        // The same in a page of a client: the broker removes the reader, the client writes.
        test: |s| Test {
            init: vec![("a", 1)],
            threads: vec![
                vec![s.store("a", 0, Site::MemberStore), s.store("k", 1, Site::CursorPublish)],
                vec![s.load(0, "k", Site::CursorRead), when(0, 1, write_again(s))],
                copy(s),
            ],
            forbidden: vec![vec![Reg(2, 0, 1), Reg(2, 2, 1)], vec![Reg(2, 1, 1), Reg(2, 2, 1)]],
        },
        covered: &[],
    },
    Edge {
        name: "member-in-place",
        // A removed reader that finds a message published after that finds that it was removed.
        test: |s| Test {
            init: vec![("a", 1)],
            threads: vec![
                vec![s.store("a", 0, Site::MemberStore), s.store("c", 1, Site::CommitPublish)],
                vec![
                    s.load(0, "c", Site::CommitRead),
                    when(0, 1, vec![s.load(1, "a", Site::MemberRead)]),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 1)]],
        },
        covered: &[],
    },
    Edge {
        name: "member-entry",
        // The broker gives an entry to another client. The one before it, which still reads the
        // cursor or the consumed position, finds that the entry is no longer its own.
        test: |s| Test {
            init: vec![("a", 1), ("k", 5), ("t", 5)],
            threads: vec![
                vec![
                    s.store("a", 0, Site::MemberStore),
                    s.fence(Site::ReuseFence),
                    s.store("k", 0, Site::CursorPublish),
                    s.store("t", 0, Site::ConsumedPublish),
                    s.store("a", 2, Site::MemberStore),
                ],
                vec![
                    s.load(0, "k", Site::CursorRead),
                    s.fence(Site::CopyFence),
                    s.load(1, "a", Site::MemberRead),
                ],
                vec![s.load(0, "t", Site::ConsumedRead), s.load(1, "a", Site::MemberRead)],
            ],
            forbidden: vec![vec![Reg(1, 0, 0), Reg(1, 1, 1)], vec![Reg(2, 0, 0), Reg(2, 1, 1)]],
        },
        covered: &[
            (Site::CursorPublish, "ReuseFence precedes it"),
            (Site::ConsumedPublish, "ReuseFence precedes it"),
            (Site::ReuseFence, "the stores after it are releases"),
            (Site::CursorRead, "CopyFence follows it"),
            (Site::CopyFence, "CursorRead precedes it and is an acquire"),
        ],
    },
    Edge {
        name: "retired",
        // A client that loads the cursor that releases a page finds the page retired, and does not
        // write it. So a removed reader never sees it change.
        test: |s| Test {
            init: vec![],
            threads: vec![
                vec![s.store("x", 9, Site::RetiredPublish), s.store("k", 1, Site::CursorPublish)],
                vec![
                    s.load(0, "k", Site::CursorRead),
                    when(
                        0,
                        1,
                        vec![s.load(1, "x", Site::RetiredRead), when(1, 0, vec![write("p", 1)])],
                    ),
                ],
                vec![read(0, "p")],
            ],
            forbidden: vec![vec![Reg(1, 0, 1), Reg(1, 1, 0)], vec![Reg(2, 0, 1)]],
        },
        covered: &[],
    },
    Edge {
        name: "retired-entry",
        // The broker gives the entry to another client. The one before it, which still runs, finds
        // its page retired, or that the entry is no longer its own.
        test: |s| Test {
            init: vec![("a", 1)],
            threads: vec![
                vec![
                    s.store("x", 9, Site::RetiredPublish),
                    s.store("k", 5, Site::CursorPublish),
                    s.store("a", 0, Site::MemberStore),
                    s.fence(Site::ReuseFence),
                    s.store("k", 0, Site::CursorPublish),
                    s.store("x", 0, Site::RetiredPublish),
                    s.store("a", 2, Site::MemberStore),
                ],
                vec![
                    s.load(0, "k", Site::CursorRead),
                    when(
                        0,
                        5,
                        vec![
                            s.load(1, "x", Site::RetiredRead),
                            s.fence(Site::CopyFence),
                            s.load(2, "a", Site::MemberRead),
                        ],
                    ),
                ],
            ],
            forbidden: vec![vec![Reg(1, 0, 5), Reg(1, 1, 0), Reg(1, 2, 1)]],
        },
        covered: &[],
    },
];
