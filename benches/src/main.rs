//! Compares llmp with its alternatives: the same work, real processes and verified contents, in one
//! run.

mod abstraction;
mod children;
mod clock;
mod content;
mod instructions;
mod limits;
mod measure;
mod peer;
mod peers;
mod placement;
mod plot;
mod pool;
#[path = "../../tests/common/regions.rs"]
mod regions;
mod report;
mod results;
mod role;
mod stats;
mod stopped;
mod succession;
mod targets;
mod verdict;
mod watchdog;
mod workloads;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use content::Sabotage;
use measure::{Cell, Plan};
use results::Results;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measures llmp beside its peers.
#[derive(Parser)]
#[command(after_help = "Examples:
  llmp-bench all                          everything; less than 15 minutes
  llmp-bench all --quick                  to see that it works; less than 2 minutes
  llmp-bench verdict DIR/results.json     which targets were met, of a run with --out DIR
  llmp-bench p2p --only '64 B' --peer llmp --peer rtrb
  llmp-bench p2p --quick --sabotage corrupt   must fail")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Every workload.
    All(Options),
    /// One sender, one receiver: messages a second.
    P2p(Options),
    /// 64 bytes there and back, polling and sleeping.
    PingPong(Options),
    /// All to all, with a broker where the peer has one.
    Bus(Options),
    /// Processor time while nothing or little is sent.
    Waiting(Options),
    /// Shared and resident memory with a slow receiver.
    Memory(Options),
    /// From connecting to the first message.
    Join(Options),
    /// The growth of the cost with clients, sleepers and buses.
    Growth(Options),
    /// The speed of the machine.
    Hardware(Options),
    /// From the death of a broker until the next one serves, and until clients go on.
    Succession {
        /// Fewer deaths.
        #[arg(long)]
        quick: bool,
    },
    /// Plays a role of `succession`.
    #[command(hide = true)]
    Survivor { role: String, path: PathBuf },
    /// The throughput of a bus with a receiver that is stopped for a minute.
    Stopped {
        /// For a second.
        #[arg(long)]
        quick: bool,
    },
    /// Plays the receiver of `stopped`.
    #[command(hide = true)]
    Bystander { policy: String, path: PathBuf },
    /// The cost of the memory abstraction compared with the protocol written by hand.
    Abstraction,
    /// The effect of a page's length on a channel's speed.
    Pool,
    /// The number of instructions of an operation. Fails when that has changed. Needs valgrind.
    Instructions {
        /// Writes the record instead of comparing with it.
        #[arg(long)]
        record: bool,
    },
    /// Performs an operation whose instructions are counted.
    #[command(hide = true)]
    Operation { name: String, times: usize },
    /// The verdict on all targets, from the results.json of one or several runs, as a table in
    /// Markdown.
    Verdict {
        #[arg(required = true)]
        results: Vec<PathBuf>,
        /// Where to write plots of all of it.
        #[arg(long)]
        out: Option<PathBuf>,
    },
    /// Plays roles of a measurement.
    #[command(hide = true)]
    Role { roles: String },
}

#[derive(clap::Args)]
struct Options {
    /// Fewer sizes, fewer and shorter runs: shows that it works, and judges nothing.
    #[arg(long)]
    quick: bool,
    /// Counted runs of each cell.
    #[arg(long)]
    runs: Option<usize>,
    /// Length of a run in seconds.
    #[arg(long)]
    seconds: Option<f64>,
    /// Only cases whose name contains this text.
    #[arg(long)]
    only: Option<String>,
    /// Only this peer; may be given several times.
    #[arg(long)]
    peer: Vec<String>,
    /// Lets the kernel choose the processors.
    #[arg(long)]
    no_pin: bool,
    /// Where to write results.json and the plots.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Lets senders spoil a message: the run must fail.
    #[arg(long)]
    sabotage: Option<Sabotage>,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Role { roles } => role::play(&roles, workloads::act),
        Command::Abstraction => {
            abstraction::run();
            Ok(())
        }
        Command::Succession { quick } => succession::run(quick),
        Command::Survivor { role, path } => succession::play(&role, &path),
        Command::Stopped { quick } => stopped::run(quick),
        Command::Bystander { policy, path } => stopped::play(&policy, &path),
        Command::Pool => {
            pool::run();
            Ok(())
        }
        Command::Instructions { record } => instructions::run(record),
        Command::Operation { name, times } => instructions::play(&name, times),
        Command::Verdict { results, out } => judge(&results, out.as_deref()),
        Command::All(options) => run(&options, "all"),
        Command::P2p(options) => run(&options, "p2p"),
        Command::PingPong(options) => run(&options, "ping-pong"),
        Command::Bus(options) => run(&options, "bus"),
        Command::Waiting(options) => run(&options, "waiting"),
        Command::Memory(options) => run(&options, "memory"),
        Command::Join(options) => run(&options, "join"),
        Command::Growth(options) => run(&options, "growth"),
        Command::Hardware(options) => run(&options, "hardware"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, workload: &str) -> Result<()> {
    let plan = Plan {
        quick: options.quick,
        runs: options.runs.unwrap_or(if options.quick { 2 } else { 5 }),
        seconds: options.seconds.unwrap_or(if options.quick { 0.05 } else { 0.15 }),
        pinned: !options.no_pin,
        sabotage: options.sabotage,
    };
    let mut cells = workloads::cells(&plan);
    // The limits that figures are compared with belong to every run.
    let is_wanted = |cell: &Cell| [cell.workload, "all"].contains(&workload);
    let is_limit = |cell: &Cell| cell.workload == workloads::hardware::NAME;
    let is_case = |cell: &Cell| options.only.iter().all(|only| cell.case.contains(only.as_str()));
    let is_peer =
        |cell: &Cell| options.peer.is_empty() || options.peer.iter().any(|peer| peer == cell.peer);
    cells.retain(|cell| is_limit(cell) || is_wanted(cell) && is_case(cell) && is_peer(cell));
    let is_nothing = !cells.iter().any(is_wanted);
    if is_nothing {
        bail!("nothing is left to be measured; see --help");
    }
    watchdog::start(plan.seconds);
    let measured = measure::measure(&plan, cells)?;
    print!("{}", report::table(&measured));
    let text = serde_json::to_string_pretty(&report::json(&measured, report::machine()))?;
    let results = Results::parse(&text)?;
    if workload == "all" {
        println!("\n{}", verdict::markdown(&results));
    }
    if let Some(out) = &options.out {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        std::fs::write(out.join("results.json"), text)?;
        plot::write(out, &results)?;
    }
    Ok(())
}

/// Never fails because of a measured time.
fn judge(results: &[PathBuf], out: Option<&Path>) -> Result<()> {
    let results = Results::read(results)?;
    print!("{}", verdict::markdown(&results));
    if let Some(out) = out {
        std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
        plot::write(out, &results)?;
    }
    Ok(())
}
