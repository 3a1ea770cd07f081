//! A memory model, and its judgement of a program.

mod armv8;
mod rc11;

pub use armv8::Armv8;
pub use rc11::Rc11;

use crate::executions::{Execution, for_each};
use crate::program::Program;

pub trait Model {
    fn name(&self) -> &'static str;

    /// Returns the program that the model's machine runs.
    fn compiled(&self, program: &Program) -> Program {
        program.clone()
    }

    /// Returns whether the execution exists in this model.
    fn is_consistent(&self, execution: &Execution) -> bool;

    /// Returns whether two accesses of a consistent execution race, which makes the program
    /// undefined.
    fn has_race(&self, _execution: &Execution) -> bool {
        false
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forbidden,
    Allowed,
    /// Some execution has a data race. Then all outcomes are possible.
    Racy,
}

/// The judgement of one program by one model.
pub struct Judgement {
    pub verdict: Verdict,
    /// Number of candidate executions, and how many of them are consistent.
    pub candidates: usize,
    pub consistent: usize,
}

/// Enumerates all executions of `program` and says whether its outcome is among those that exist.
pub fn judge(model: &dyn Model, program: &Program) -> Judgement {
    let mut judgement = Judgement { verdict: Verdict::Forbidden, candidates: 0, consistent: 0 };
    for_each(&model.compiled(program), |execution| {
        judgement.candidates += 1;
        if !model.is_consistent(execution) {
            return;
        }
        judgement.consistent += 1;
        if model.has_race(execution) {
            judgement.verdict = Verdict::Racy;
        } else if judgement.verdict == Verdict::Forbidden && execution.shows(&program.outcome) {
            judgement.verdict = Verdict::Allowed;
        }
    });
    assert!(judgement.consistent > 0, "{} has no execution in {}", program.name, model.name());
    judgement
}
