//! The protocol's edges under the axioms of RC11, of C11 and of Armv8.
//!
//! Each edge of `docs/orderings.md` is a litmus test of a few accesses, with the orderings of
//! `src/core/order.rs`. The checker enumerates all its executions and asks each model which exist.
//! loom never shows load buffering. Here two of the models permit it where the orderings do.
//! The checker itself must reproduce published verdicts.

mod edges;
mod executions;
mod litmus;
mod models;
mod program;
mod published;
mod relation;
#[path = "../report.rs"]
mod report;

use edges::Edge;
use llmp::core::order::Site;
use models::{Armv8, Judgement, Model, Rc11, Verdict, judge};
use program::Program;
use report::report;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::Ordering;

/// The models that judge the edges.
const MODELS: &[&dyn Model] =
    &[&Rc11::RC11, &Rc11::C11, &Armv8::LDAR, &Armv8::LDAPR, &Armv8::NO_DEPENDENCIES];

#[test]
fn published_verdicts_are_reproduced() {
    let mut counts: BTreeMap<_, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for test in published::all() {
        let found = judge(&*test.model, &test.program).verdict;
        let (name, model) = (&test.program.name, test.model.name());
        *counts.entry(model).or_default() += 1;
        if found != test.verdict {
            let (published, source) = (test.verdict, test.source);
            wrong.push(format!("{name} in {model}: {published:?} in {source}, {found:?} here"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (model, count) in &counts {
        report(&format!("axioms {model}: {count} published verdicts"));
    }
    report(&format!("axioms published: {} verdicts", counts.values().sum::<usize>()));
}

/// Checks a whole list of Dartagnan, such as `ARM8-expected.csv`. The committed verdicts are a part.
#[test]
#[ignore = "needs LLMP_VERDICTS, the path of a list of verdicts"]
fn a_list_of_verdicts_is_reproduced() {
    let path = std::env::var("LLMP_VERDICTS").expect("LLMP_VERDICTS is the path of a list");
    let list = std::fs::read_to_string(path).expect("the list can be read");
    let known: Vec<_> = list.lines().filter_map(published::listed).collect();
    let is_wrong =
        |(program, verdict): &&(_, Verdict)| judge(&Armv8::LDAR, program).verdict != *verdict;
    let wrong: Vec<_> = known.iter().filter(is_wrong).map(|(program, _)| &program.name).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    report(&format!("axioms list: {} of {} verdicts", known.len(), list.lines().count()));
}

/// A weaker ordering of one site, and the models that then permit the outcome or a race.
type Noticed = Vec<(Site, Ordering, Vec<&'static str>)>;

fn weaker(edge: &Edge) -> Noticed {
    let mut sites = Vec::new();
    for site in edge.production().1 {
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    let orderings = sites.into_iter().flat_map(|s| s.weaker().iter().map(move |o| (s, *o)));
    let noticed =
        |(site, ordering)| (site, ordering, noticing(&edge.weakened(site, ordering, None)));
    orderings.map(noticed).collect()
}

/// Returns the models that permit the outcome, or a race.
fn noticing(program: &Program) -> Vec<&'static str> {
    let notices = |model: &&&dyn Model| judge(**model, program).verdict != Verdict::Forbidden;
    MODELS.iter().filter(notices).map(|model| model.name()).collect()
}

#[test]
fn no_edge_shows_its_forbidden_outcome() {
    report("| edge | model | executions | consistent | verdict | weaker orderings noticed |");
    report("|---|---|---|---|---|---|");
    let (mut wrong, mut count, mut executions) = (Vec::new(), 0, 0);
    for edge in edges::all() {
        let (program, _) = edge.production();
        let weaker = weaker(edge);
        for model in MODELS {
            let Judgement { verdict, candidates, consistent } = judge(*model, &program);
            let (edge, model) = (edge.name, model.name());
            let noticed = weaker.iter().filter(|(_, _, models)| models.contains(&model)).count();
            report(&format!(
                "| {edge} | {model} | {candidates} | {consistent} | {verdict:?} | {noticed} of {} |",
                weaker.len()
            ));
            executions += candidates;
            if verdict != Verdict::Forbidden {
                wrong.push(format!("{edge} in {model}: {verdict:?}"));
            }
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let models = MODELS.len();
    report(&format!("axioms edges: {count} edges, {models} models, {executions} executions"));
}

#[test]
fn each_weaker_ordering_shows_the_outcome_or_is_covered() {
    let (mut noticed, mut covered) = (0, 0);
    for edge in edges::all() {
        for (site, ordering, models) in weaker(edge) {
            let reason = edge.covered.iter().find(|(covered, _)| *covered == site);
            let what = format!("{}: {site:?} as {ordering:?}", edge.name);
            match (models.is_empty(), reason) {
                (true, None) => panic!("{what}: no model notices"),
                (false, Some((_, why))) => panic!("{what}: {models:?} notice, but \"{why}\""),
                (true, Some((_, why))) => {
                    covered += 1;
                    report(&format!("{what}: {why}"));
                }
                (false, None) => {
                    noticed += 1;
                    report(&format!("{what}: {}", models.join("; ")));
                }
            }
        }
    }
    report(&format!(
        "axioms weaker orderings: {noticed} noticed, {covered} covered, all executions"
    ));
}

#[test]
fn each_site_is_in_an_edge_that_notices_its_weaker_orderings() {
    let used: Vec<Site> = edges::all().flat_map(|edge| edge.production().1).collect();
    let noticed: Vec<_> = edges::all()
        .flat_map(weaker)
        .filter(|(_, _, models)| !models.is_empty())
        .map(|(site, ordering, _)| (site, ordering))
        .collect();
    for site in Site::ALL {
        assert!(used.contains(site), "{site:?} is in no edge");
        for ordering in site.weaker() {
            assert!(noticed.contains(&(*site, *ordering)), "{site:?} as {ordering:?} is unnoticed");
        }
    }
}

/// An edge by reference goes through the broker: both ends of both hops are needed.
#[test]
fn each_end_of_each_hop_through_the_broker_is_needed() {
    let by_reference = |edge: &&Edge| edge.name.contains("by-reference");
    for edge in edges::all().filter(by_reference) {
        for (access, site) in edge.production().1.into_iter().enumerate() {
            for ordering in site.weaker() {
                let noticing = noticing(&edge.weakened(site, *ordering, Some(access)));
                assert!(!noticing.is_empty(), "{}: access {access}, {site:?}", edge.name);
            }
        }
    }
}

/// What loom can't show: with relaxed accesses a reader sees what is written after it has released
/// the page.
#[test]
fn load_buffering_is_seen_where_rc11_is_blind() {
    let edge = edges::all().find(|edge| edge.name == "cursor-words").expect("an edge");
    let permitting = |site| noticing(&edge.weakened(site, Ordering::Relaxed, None));
    let [rc11, c11, ldar, ldapr, no_dependencies] = [0, 1, 2, 3, 4].map(|i| MODELS[i].name());
    let of_store = permitting(Site::CursorPublish);
    assert_eq!(of_store, [c11, ldar, ldapr, no_dependencies], "all but {rc11}");
    // The machine keeps a store behind the branch on the load. A compiler need not keep the branch.
    assert_eq!(permitting(Site::CursorRead), [c11, no_dependencies]);
}

#[test]
fn a_publisher_that_finds_the_polling_flag_may_miss_a_sleep() {
    let edge = Edge { name: "polled", test: edges::polled, covered: &[] };
    let (program, _) = edge.production();
    for model in MODELS {
        assert_eq!(judge(*model, &program).verdict, Verdict::Allowed, "{}", model.name());
    }
}

#[test]
fn names_are_unique() {
    let names: Vec<_> = edges::all().map(|edge| edge.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    let published: Vec<_> =
        published::all().iter().map(|t| (t.program.name.clone(), t.model.name())).collect();
    assert_eq!(published.iter().collect::<BTreeSet<_>>().len(), published.len());
}

#[test]
fn a_published_test_is_exported_as_text() {
    let all = published::all();
    let named = |name: &str| &all.iter().find(|t| t.program.name == name).expect(name).program;
    assert_eq!(
        litmus::aarch64(named("MP+popl+addr")),
        "AArch64 MP+popl+addr\n\
         {\n\
         0:X10=x; 0:X11=y; 1:X10=y; 1:X11=x;\n\
         }\n \
         P0             | P1                    ;\n \
         MOV W22,#1     | LDR W0,[X10]          ;\n \
         STR W22,[X10]  | EOR W20,W0,W0         ;\n \
         MOV W22,#1     | LDR W1,[X11,W20,SXTW] ;\n \
         STLR W22,[X11] |                       ;\n\
         exists\n\
         (1:X0=1 /\\ 1:X1=0)\n"
    );
    assert_eq!(
        litmus::c(named("mp_relacq")),
        "C mp_relacq\n\
         \n\
         {}\n\
         \n\
         P0 (int* x, atomic_int* y) {\n  \
           *x = 1;\n  \
           atomic_store_explicit(y, 1, memory_order_release);\n\
         }\n\
         \n\
         P1 (atomic_int* y, int* x) {\n  \
           int r0 = atomic_load_explicit(y, memory_order_acquire);\n  \
           if (r0 == 1) {\n    \
             int r1 = *x;\n  \
           }\n\
         }\n\
         \n\
         exists\n\
         (1:r0=1 /\\ 1:r1=0)\n"
    );
}

/// Writes each edge to `target/axioms` if `LLMP_LITMUS` is set: as C and as AArch64, with production's
/// orderings and with each weaker one.
#[test]
fn each_edge_can_be_exported() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axioms");
    let is_wanted = std::env::var_os("LLMP_LITMUS").is_some();
    if is_wanted {
        std::fs::create_dir_all(&folder).expect("target/axioms can be made");
    }
    for edge in edges::all() {
        let weakened = |(site, ordering, _)| edge.weakened(site, ordering, None);
        let programs = weaker(edge).into_iter().map(weakened).chain([edge.production().0]);
        for program in programs {
            let files = [
                ("c", litmus::c(&program)),
                ("ldar", litmus::aarch64(&Armv8::LDAR.compiled(&program))),
                ("ldapr", litmus::aarch64(&Armv8::LDAPR.compiled(&program))),
            ];
            for (kind, text) in files.into_iter().filter(|_| is_wanted) {
                let file = folder.join(format!("{}.{kind}.litmus", program.name));
                std::fs::write(&file, text).expect("a litmus file can be written");
            }
        }
    }
}
