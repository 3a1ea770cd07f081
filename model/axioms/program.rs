//! The language of litmus tests: threads of loads, stores, fences and branches over registers.
//!
//! There is no read-modify-write, because the protocol has none. One language serves C11 and
//! AArch64. A test uses the accesses and fences of one of them.

/// A word of shared memory.
pub type Location = &'static str;

/// A register of one thread. It is zero until a load writes it.
pub type Register = usize;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Not atomic in C11; `ldr` and `str` on AArch64.
    Plain,
    Relaxed,
    /// `ldar` on AArch64.
    Acquire,
    /// `ldapr`, on AArch64 alone.
    AcquirePc,
    /// `stlr` on AArch64.
    Release,
    SeqCst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// A fence that was weakened until nothing was left.
    Absent,
    Acquire,
    Release,
    AcqRel,
    SeqCst,
    DmbSy,
    DmbLd,
    DmbSt,
    Isb,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    Constant(u64),
    Copy(Register),
    /// A constant that the code computes from a register: a data dependency without effect.
    Computed(u64, Register),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `address` is a register from which the code computes the address, without effect.
    Load {
        to: Register,
        from: Location,
        access: Access,
        address: Option<Register>,
    },
    Store {
        to: Location,
        value: Value,
        access: Access,
        address: Option<Register>,
    },
    Fence(Fence),
    /// Runs `then` if the register is (`equal`), or is not, `value`.
    When {
        register: Register,
        equal: bool,
        value: u64,
        then: Vec<Step>,
    },
}

pub fn load(to: Register, from: Location, access: Access) -> Step {
    Step::Load { to, from, access, address: None }
}

pub fn store(to: Location, value: u64, access: Access) -> Step {
    Step::Store { to, value: Value::Constant(value), access, address: None }
}

pub fn when(register: Register, value: u64, then: Vec<Step>) -> Step {
    Step::When { register, equal: true, value, then }
}

/// A fact about the end of an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    Register(usize, Register, u64),
    Final(Location, u64),
}

/// A test: does an execution exist in which all facts of one clause hold?
#[derive(Clone, Debug)]
pub struct Program {
    pub name: String,
    /// Initial values that are not zero.
    pub init: Vec<(Location, u64)>,
    pub threads: Vec<Vec<Step>>,
    pub outcome: Vec<Vec<Fact>>,
}

impl Program {
    /// Returns the program with each step replaced.
    pub fn map(&self, change: &impl Fn(Step) -> Step) -> Program {
        fn all(steps: &[Step], change: &impl Fn(Step) -> Step) -> Vec<Step> {
            let one = |step: &Step| match change(step.clone()) {
                Step::When { register, equal, value, then } => {
                    Step::When { register, equal, value, then: all(&then, change) }
                }
                step => step,
            };
            steps.iter().map(one).collect()
        }
        let threads = self.threads.iter().map(|steps| all(steps, change)).collect();
        Program { threads, ..self.clone() }
    }

    /// Calls `visit` with each step of a thread, inner ones as well.
    pub fn visit<'a>(steps: &'a [Step], visit: &mut impl FnMut(&'a Step)) {
        for step in steps {
            visit(step);
            if let Step::When { then, .. } = step {
                Program::visit(then, visit);
            }
        }
    }

    /// Returns all locations, in the order in which they occur.
    pub fn locations(&self) -> Vec<Location> {
        let mut found = Vec::new();
        for steps in &self.threads {
            Program::visit(steps, &mut |step| match step {
                Step::Load { from: at, .. } | Step::Store { to: at, .. } if !found.contains(at) => {
                    found.push(*at);
                }
                _ => {}
            });
        }
        found
    }

    pub fn initial(&self, location: Location) -> u64 {
        self.init.iter().find(|(at, _)| *at == location).map_or(0, |(_, value)| *value)
    }
}
