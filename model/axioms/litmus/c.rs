//! C11 litmus tests.

use super::{condition, initial};
use crate::program::{Access, Fence, Location, Program, Register, Step, Value};
use std::fmt::Write;

/// Returns the test as C. Words that are accessed plainly alone are `int`, others `atomic_int`.
pub fn c(program: &Program) -> String {
    let mut text = format!("C {}\n\n{{{}}}\n", program.name, initial(program).join(" "));
    for (thread, steps) in program.threads.iter().enumerate() {
        let mut parameters: Vec<String> = Vec::new();
        Program::visit(steps, &mut |step| {
            if let Step::Load { from: at, .. } | Step::Store { to: at, .. } = step {
                let kind = if is_atomic(program, at) { "atomic_int" } else { "int" };
                let parameter = format!("{kind}* {at}");
                if !parameters.contains(&parameter) {
                    parameters.push(parameter);
                }
            }
        });
        let _ = writeln!(text, "\nP{thread} ({}) {{", parameters.join(", "));
        block(&mut text, steps, 1);
        text.push_str("}\n");
    }
    text + "\n" + &condition(program, "r")
}

fn is_atomic(program: &Program, location: Location) -> bool {
    let mut atomic = false;
    for steps in &program.threads {
        Program::visit(steps, &mut |step| {
            if let Step::Load { from: at, access, .. } | Step::Store { to: at, access, .. } = step {
                atomic |= *at == location && *access != Access::Plain;
            }
        });
    }
    atomic
}

fn block(text: &mut String, steps: &[Step], depth: usize) {
    for step in steps {
        let line = match step {
            Step::Load { to, from, access: Access::Plain, address } => {
                format!("int r{to} = *{};", place(from, *address))
            }
            Step::Load { to, from, access, address } => {
                let (place, order) = (place(from, *address), order(*access));
                format!("int r{to} = atomic_load_explicit({place}, {order});")
            }
            Step::Store { to, value, access: Access::Plain, address } => {
                format!("*{} = {};", place(to, *address), expression(*value))
            }
            Step::Store { to, value, access, address } => {
                let (place, order) = (place(to, *address), order(*access));
                format!("atomic_store_explicit({place}, {}, {order});", expression(*value))
            }
            Step::Fence(Fence::Absent) => continue,
            Step::Fence(fence) => format!("atomic_thread_fence({});", fence_order(*fence)),
            Step::When { register, equal, value, .. } => {
                format!("if (r{register} {} {value}) {{", if *equal { "==" } else { "!=" })
            }
        };
        let indent = "  ".repeat(depth);
        let _ = writeln!(text, "{indent}{line}");
        if let Step::When { then, .. } = step {
            block(text, then, depth + 1);
            let _ = writeln!(text, "{indent}}}");
        }
    }
}

fn place(location: Location, address: Option<Register>) -> String {
    address.map_or(location.to_owned(), |r| format!("({location} + (r{r} ^ r{r}))"))
}

fn expression(value: Value) -> String {
    match value {
        Value::Constant(value) => value.to_string(),
        Value::Copy(register) => format!("r{register}"),
        Value::Computed(value, r) => format!("{value} + (r{r} ^ r{r})"),
    }
}

fn order(access: Access) -> &'static str {
    match access {
        Access::Relaxed => "memory_order_relaxed",
        Access::Acquire => "memory_order_acquire",
        Access::Release => "memory_order_release",
        Access::SeqCst => "memory_order_seq_cst",
        Access::Plain | Access::AcquirePc => panic!("{access:?} is not an atomic access of C"),
    }
}

fn fence_order(fence: Fence) -> &'static str {
    match fence {
        Fence::Acquire => "memory_order_acquire",
        Fence::Release => "memory_order_release",
        Fence::AcqRel => "memory_order_acq_rel",
        Fence::SeqCst => "memory_order_seq_cst",
        other => panic!("{other:?} is not a fence of C"),
    }
}
