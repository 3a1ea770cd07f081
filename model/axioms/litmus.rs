//! Writes a test in the format of herd7 and Dartagnan, as C or as AArch64.

mod aarch64;
mod c;

pub use aarch64::aarch64;
pub use c::c;

use crate::program::{Fact, Program};

fn initial(program: &Program) -> Vec<String> {
    program.init.iter().map(|(location, value)| format!("[{location}]={value};")).collect()
}

/// Returns the condition. `register` is the letter before a register's number.
fn condition(program: &Program, register: &str) -> String {
    let fact = |fact: &Fact| match fact {
        Fact::Register(thread, number, value) => format!("{thread}:{register}{number}={value}"),
        Fact::Final(location, value) => format!("[{location}]={value}"),
    };
    // And binds more strongly than or.
    let clause = |facts: &Vec<Fact>| facts.iter().map(fact).collect::<Vec<_>>().join(" /\\ ");
    let clauses: Vec<_> = program.outcome.iter().map(clause).collect();
    format!("exists\n({})\n", clauses.join(" \\/ "))
}
