//! Edges of sleeping: parking, ringing, polling.

use super::{Edge, Reg, Site, Sites, Test};

/// The sleeper announces its sleep and checks a word again. The publisher stores that word and
/// checks for a sleeper. One of them must see the other.
fn park(s: &Sites, publish: Site, check: Site) -> Test {
    Test {
        init: vec![],
        threads: vec![
            vec![s.store("z", 1, Site::ParkStore), s.fence(Site::ParkFence), s.load(0, "c", check)],
            vec![
                s.store("c", 1, publish),
                s.fence(Site::RingFence),
                s.load(0, "z", Site::RingRead),
            ],
        ],
        forbidden: vec![vec![Reg(0, 0, 0), Reg(1, 0, 0)]],
    }
}

const FENCES: &str = "both fences order the store and the load beside them";

pub const EDGES: &[Edge] = &[
    Edge {
        name: "park-commit",
        test: |s| park(s, Site::CommitPublish, Site::CommitRead),
        covered: &[(Site::CommitPublish, FENCES), (Site::CommitRead, FENCES)],
    },
    Edge {
        name: "park-cursor",
        test: |s| park(s, Site::CursorPublish, Site::CursorRead),
        covered: &[(Site::CursorPublish, FENCES), (Site::CursorRead, FENCES)],
    },
    Edge {
        name: "park-consumed",
        test: |s| park(s, Site::ConsumedPublish, Site::ConsumedRead),
        covered: &[(Site::ConsumedPublish, FENCES), (Site::ConsumedRead, FENCES)],
    },
    Edge {
        name: "park-polled",
        // The same for a sleeper that has polled. The publisher fences: it must not find the flag.
        test: |s| {
            let mut test = park(s, Site::CommitPublish, Site::CommitRead);
            test.threads[0].insert(0, s.store("z", 8, Site::PollingStore));
            test.forbidden.push(vec![Reg(0, 0, 0), Reg(1, 0, 8)]);
            test
        },
        covered: &[(Site::CommitPublish, FENCES), (Site::CommitRead, FENCES)],
    },
    Edge {
        name: "polling-word",
        // The parked word never goes back from one look to the next.
        test: |s| Test {
            init: vec![("z", 1)],
            threads: vec![
                vec![
                    s.store("z", 0, Site::ParkClear),
                    s.store("z", 8, Site::PollingStore),
                    s.store("z", 2, Site::ParkStore),
                ],
                vec![s.load(0, "z", Site::PollingRead), s.load(1, "z", Site::RingRead)],
            ],
            forbidden: vec![
                vec![Reg(1, 0, 0), Reg(1, 1, 1)],
                vec![Reg(1, 0, 8), Reg(1, 1, 0)],
                vec![Reg(1, 0, 8), Reg(1, 1, 1)],
                vec![Reg(1, 0, 2), Reg(1, 1, 8)],
                vec![Reg(1, 0, 2), Reg(1, 1, 0)],
                vec![Reg(1, 0, 2), Reg(1, 1, 1)],
            ],
        },
        covered: &[],
    },
];

/// A publisher that finds the polling flag makes no fence. So it may miss the sleep while the sleeper
/// misses the message. No ordering forbids that: the sleeper bounds its sleeps.
pub fn polled(s: &Sites) -> Test {
    let mut test = park(s, Site::CommitPublish, Site::CommitRead);
    test.init = vec![("z", 8)];
    test.threads[1] = vec![s.store("c", 1, Site::CommitPublish), s.load(0, "z", Site::PollingRead)];
    test.forbidden = vec![vec![Reg(0, 0, 0), Reg(1, 0, 8)]];
    test
}
