//! The command line of llmp.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arguments;
mod broker;
mod demo;
mod failure;
mod format;
mod interrupt;
mod lines;
mod random;
mod ready;
mod recv;
mod respawn;
mod send;
mod soak;
mod status;
mod stderr;
mod stop;
mod values;

use arguments::{Command, Program};
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().collect();
    let program = match arguments::parse(&words) {
        Ok(program) => program,
        Err(instead) => return instead.report(),
    };
    log_to_stderr(&program);
    let result = match program.command {
        Command::Broker(arguments) => broker::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Recv(arguments) => recv::run(arguments),
        Command::Stop(arguments) => stop::run(&arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::DemoBroker(arguments) => demo::broker::run(&arguments),
        Command::DemoClient(arguments) => demo::client::run(&arguments),
        Command::SoakBroker(arguments) => soak::broker::run(&arguments),
        Command::SoakClient(arguments) => soak::client::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Logs to stderr. Shows warnings by default, and `RUST_LOG` overrides that.
fn log_to_stderr(program: &Program) {
    let level = if program.verbose { "info" } else { "warn" };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level))
        .format(|out, record| {
            let level = record.level().as_str().to_lowercase();
            writeln!(out, "llmp: {level}: {}", record.args())
        })
        .target(env_logger::Target::Pipe(Box::new(stderr::Log)))
        .init();
}
