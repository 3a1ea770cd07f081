//! AArch64 litmus tests. A register of the program has the same number. `X10` and further hold
//! addresses, `W20` and further are scratch.

use super::{condition, initial};
use crate::program::{Access, Fence, Location, Program, Register, Step, Value};
use std::fmt::Write;

const FIRST_ADDRESS: usize = 10;
/// Zero, computed from the register that something depends on.
const ZERO: &str = "W20";

/// Returns the test as AArch64. The program must be compiled already.
pub fn aarch64(program: &Program) -> String {
    let mut columns = Vec::new();
    let mut init = initial(program);
    for (index, steps) in program.threads.iter().enumerate() {
        let mut thread = Thread::default();
        thread.block(index, steps);
        let address = |(i, at)| format!("{index}:X{}={at};", FIRST_ADDRESS + i);
        init.extend(thread.locations.iter().enumerate().map(address));
        columns.push([vec![format!("P{index}")], thread.lines].concat());
    }
    let mut text = format!("AArch64 {}\n{{\n{}\n}}\n", program.name, init.join(" "));
    for row in 0..columns.iter().map(Vec::len).max().unwrap_or(0) {
        let cell = |lines: &Vec<String>| {
            let width = lines.iter().map(String::len).max().unwrap_or(0);
            format!(" {:width$} ", lines.get(row).map_or("", String::as_str))
        };
        let cells: Vec<_> = columns.iter().map(cell).collect();
        let _ = writeln!(text, "{};", cells.join("|"));
    }
    text + &condition(program, "X")
}

#[derive(Default)]
struct Thread {
    locations: Vec<Location>,
    lines: Vec<String>,
    labels: usize,
}

impl Thread {
    fn block(&mut self, index: usize, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Load { to, from, access, address } => {
                    let place = self.place(from, *address);
                    let name = match access {
                        Access::Plain => "LDR",
                        Access::Acquire => "LDAR",
                        Access::AcquirePc => "LDAPR",
                        other => panic!("{other:?} is not a load of AArch64"),
                    };
                    self.line(format!("{name} W{to},[{place}]"));
                }
                Step::Store { to, value, access, address } => {
                    let place = self.place(to, *address);
                    let from = self.value(*value);
                    let name = match access {
                        Access::Plain => "STR",
                        Access::Release => "STLR",
                        other => panic!("{other:?} is not a store of AArch64"),
                    };
                    self.line(format!("{name} {from},[{place}]"));
                }
                Step::Fence(Fence::Absent) => {}
                Step::Fence(fence) => self.line(name(*fence).to_owned()),
                Step::When { register, equal, value, then } => {
                    let label = format!("L{index}{}", self.labels);
                    self.labels += 1;
                    self.line(format!("CMP W{register},#{value}"));
                    self.line(format!("B.{} {label}", if *equal { "NE" } else { "EQ" }));
                    self.block(index, then);
                    self.line(format!("{label}:"));
                }
            }
        }
    }

    fn line(&mut self, line: String) {
        self.lines.push(line);
    }

    fn place(&mut self, location: Location, address: Option<Register>) -> String {
        let known = self.locations.iter().position(|at| *at == location);
        let number = FIRST_ADDRESS
            + known.unwrap_or_else(|| {
                self.locations.push(location);
                self.locations.len() - 1
            });
        let Some(register) = address else { return format!("X{number}") };
        self.line(format!("EOR {ZERO},W{register},W{register}"));
        // `ldr` and `str` alone have this form, and no test needs another.
        format!("X{number},{ZERO},SXTW")
    }

    /// Returns the register that holds the value.
    fn value(&mut self, value: Value) -> String {
        match value {
            Value::Constant(value) => self.line(format!("MOV W22,#{value}")),
            Value::Copy(register) => return format!("W{register}"),
            Value::Computed(value, register) => {
                self.line(format!("EOR {ZERO},W{register},W{register}"));
                self.line(format!("ADD W22,{ZERO},#{value}"));
            }
        }
        "W22".to_owned()
    }
}

fn name(fence: Fence) -> &'static str {
    match fence {
        Fence::DmbSy => "DMB ISH",
        Fence::DmbLd => "DMB ISHLD",
        Fence::DmbSt => "DMB ISHST",
        Fence::Isb => "ISB",
        other => panic!("{other:?} is not a fence of AArch64"),
    }
}
