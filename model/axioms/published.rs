//! Litmus tests with published verdicts. The checker must reproduce each.
//!
//! Sources:
//! * *herd*: `kinds.txt` of `catalogue/aarch64` and `catalogue/aarch64-readers-guide` in herdtools7
//!   (commit 5feffe4e), which Arm maintains with the model.
//! * *Dat3M*: `ARM8-expected.csv`, `RC11-expected.csv` and `C11-expected.csv` of Dartagnan (commit
//!   30640123). Its tests for Arm are diy's.
//! * *mmfix*: the files `.litmus.expected` of gonzalobg/mmfix (commit e7002b9e): herd with RC11's
//!   axioms, without the one against thin-air values, with C++20's release sequences.
//! * *POPL15*: `regression.py` of herdtools7's `catalogue/c11popl15`, for Vafeiadis et al., *Common
//!   Compiler Optimisations are Invalid in the C11 Memory Model* (POPL 2015).
//! * *PLDI17*: Lahav et al., *Repairing Sequential Consistency in C/C++11* (PLDI 2017).

mod arm;
mod c11;
mod cycles;
mod text;

use crate::models::{Armv8, Model, Rc11, Verdict};
use crate::program::Program;

/// One verdict of one model on one test.
pub struct Published {
    pub program: Program,
    pub model: Box<dyn Model>,
    pub verdict: Verdict,
    pub source: &'static str,
}

/// Returns all published verdicts.
pub fn all() -> Vec<Published> {
    let mut all = Vec::new();
    for (source, verdict, names) in arm::CYCLES {
        for name in names.split_whitespace() {
            let program = cycles::program(name).unwrap_or_else(|| panic!("{name} is unknown"));
            all.push(Published {
                program,
                model: Box::new(Armv8::LDAR),
                verdict: *verdict,
                source,
            });
        }
    }
    for (name, text, verdict, source) in arm::TESTS {
        let program = text::program(name, text, crate::program::Access::Plain);
        all.push(Published { program, model: Box::new(Armv8::LDAR), verdict: *verdict, source });
    }
    for (name, text, rc11, c11, source) in c11::TESTS {
        let verdicts: [(Rc11, &Option<Verdict>); 2] = [(Rc11::PUBLISHED, rc11), (Rc11::C11, c11)];
        for (model, verdict) in verdicts {
            let Some(verdict) = *verdict else { continue };
            let program = text::program(name, text, crate::program::Access::Relaxed);
            all.push(Published { program, model: Box::new(model), verdict, source });
        }
    }
    all
}

/// Returns the program of a list of verdicts of Dartagnan: lines `PATH/NAME.litmus,1`, where 1 is
/// allowed. `None` for a test that cycles.rs does not know.
pub fn listed(line: &str) -> Option<(Program, Verdict)> {
    let (path, verdict) = line.trim().rsplit_once(',')?;
    let name = path.rsplit('/').next()?.strip_suffix(".litmus")?;
    let verdict = if verdict == "1" { Verdict::Allowed } else { Verdict::Forbidden };
    Some((cycles::program(name)?, verdict))
}
