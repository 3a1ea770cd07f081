//! Published tests as text: `Wx1 dmb.st Wy1 | Ry1 addr Rx0 ; y=2`.
//!
//! `|` separates threads. `Wx1` stores 1 to `x`. `Ry1` loads `y`, and must return 1 in the outcome.
//! `Ry` may return anything. `Wxr` stores what the load before it returned. A suffix is the access:
//! `.na`, `.rlx`, `.acq`, `.pc` (`ldapr`), `.rel`, `.sc`. Between two accesses is what orders them:
//! `po` (nothing), a fence, or `addr`, `data`, `ctrl`, `ctrlisb`, which depend on the last load. Facts
//! about final values follow `;`.

use crate::program::{Access, Fact, Fence, Location, Program, Register, Step, Value};

/// Returns the program of `text`. An access without a suffix has the access `default`.
pub fn program(name: &str, text: &'static str, default: Access) -> Program {
    let threads: Vec<Vec<&str>> = threads(text);
    program_of(name, &threads, facts(text), default)
}

/// Returns the tokens of each thread.
pub fn threads(text: &str) -> Vec<Vec<&str>> {
    let threads = text.split(';').next().unwrap_or_default();
    threads.split('|').map(|thread| thread.split_whitespace().collect()).collect()
}

/// Returns the facts after `;`.
pub fn facts(text: &'static str) -> Vec<Fact> {
    let facts = text.split(';').nth(1).unwrap_or_default();
    let fact = |fact: &'static str| {
        let (location, value) = fact.split_once('=').expect("a fact is LOCATION=VALUE");
        Fact::Final(location, number(value))
    };
    facts.split_whitespace().map(fact).collect()
}

pub fn program_of(
    name: &str,
    threads: &[Vec<&'static str>],
    mut facts: Vec<Fact>,
    default: Access,
) -> Program {
    let mut programs = Vec::new();
    for (index, tokens) in threads.iter().enumerate() {
        let mut thread = Thread { index, default, last: None, loads: 0, facts: &mut facts };
        programs.push(thread.steps(tokens));
    }
    Program { name: name.to_owned(), init: Vec::new(), threads: programs, outcome: vec![facts] }
}

struct Thread<'a> {
    index: usize,
    default: Access,
    /// The register of the last load, and the value that it returns in the outcome.
    last: Option<(Register, Option<u64>)>,
    loads: usize,
    facts: &'a mut Vec<Fact>,
}

impl Thread<'_> {
    fn steps(&mut self, tokens: &[&'static str]) -> Vec<Step> {
        let (mut steps, mut address, mut data) = (Vec::new(), None, None);
        for (at, token) in tokens.iter().enumerate() {
            match *token {
                "po" => {}
                "addr" => address = Some(self.dependency().0),
                "data" => data = Some(self.dependency().0),
                "ctrl" | "ctrlisb" => {
                    let (register, value) = self.dependency();
                    let value = value.expect("a branch needs the value of the load");
                    let isb = (*token == "ctrlisb").then_some(Step::Fence(Fence::Isb));
                    let then = isb.into_iter().chain(self.steps(&tokens[at + 1..])).collect();
                    steps.push(Step::When { register, equal: true, value, then });
                    return steps;
                }
                token => match fence(token) {
                    Some(fence) => steps.push(Step::Fence(fence)),
                    None => steps.push(self.access(token, address.take(), data.take())),
                },
            }
        }
        steps
    }

    fn dependency(&self) -> (Register, Option<u64>) {
        self.last.expect("a dependency follows a load")
    }

    fn access(
        &mut self,
        token: &'static str,
        address: Option<Register>,
        data: Option<Register>,
    ) -> Step {
        let (token, access) = match token.split_once('.') {
            Some((token, suffix)) => (token, access(suffix)),
            None => (token, self.default),
        };
        let (kind, location, value): (&str, Location, &str) =
            (&token[..1], &token[1..2], &token[2..]);
        if kind == "R" {
            let to = self.loads;
            self.loads += 1;
            let value = (!value.is_empty()).then(|| number(value));
            self.facts.extend(value.map(|value| Fact::Register(self.index, to, value)));
            self.last = Some((to, value));
            return Step::Load { to, from: location, access, address };
        }
        assert_eq!(kind, "W", "{token} is neither an access, a fence nor a dependency");
        let value = match (value, data) {
            ("r", _) => Value::Copy(self.dependency().0),
            (value, Some(register)) => Value::Computed(number(value), register),
            (value, None) => Value::Constant(number(value)),
        };
        Step::Store { to: location, value, access, address }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn access(suffix: &str) -> Access {
    match suffix {
        "na" => Access::Plain,
        "rlx" => Access::Relaxed,
        "acq" => Access::Acquire,
        "pc" => Access::AcquirePc,
        "rel" => Access::Release,
        "sc" => Access::SeqCst,
        other => panic!(".{other} is not an access"),
    }
}

fn fence(token: &str) -> Option<Fence> {
    Some(match token {
        "facq" => Fence::Acquire,
        "frel" => Fence::Release,
        "facqrel" => Fence::AcqRel,
        "fsc" => Fence::SeqCst,
        "dmb.sy" => Fence::DmbSy,
        "dmb.ld" => Fence::DmbLd,
        "dmb.st" => Fence::DmbSt,
        "isb" => Fence::Isb,
        _ => return None,
    })
}
