//! What can be asked for on the command line.

use super::failure::Failure;
use super::values;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use llmp::{Access, Bus};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Processes of one machine exchange messages through shared memory.
///
/// A bus has one broker. Clients connect to it by the bus's name, or by the path of its socket if
/// there is a slash in it. Every receiver gets every message that is sent while it is connected,
/// once, and all of them in the same order.
#[derive(Debug, Parser)]
#[command(name = "llmp", version, after_help = PROGRAM_HELP)]
pub struct Program {
    /// Tells on stderr who comes and goes; the variable RUST_LOG says it more finely
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const PROGRAM_HELP: &str = "\
Examples, each line in its own terminal:
  llmp broker logs
  llmp recv logs
  journalctl -f | llmp send logs --lines
To see it work on your own files, and how fast:
  llmp demo ~/Documents

Status: 0 done; 1 failed on the way; 2 no such bus, refused, or a wrong option.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the broker of a bus until it is told to end (SIGINT or SIGTERM)
    Broker(Broker),
    /// Sends lines, a stream or files to all who receive
    Send(Send),
    /// Receives what is sent from now on and writes it to standard output
    Recv(Recv),
    /// Lets three processes exchange the files of a directory, checks each, and measures
    Demo(Demo),
    /// The broker of a demo.
    #[command(hide = true)]
    DemoBroker(DemoChild),
    /// A client of a demo.
    #[command(hide = true)]
    DemoClient(DemoChild),
}

/// Where the bus is.
#[derive(Args, Debug)]
pub struct Place {
    /// The bus: a name, or the path of a socket if there is a slash in it
    #[arg(value_parser = OsStringValueParser::new().try_map(values::bus))]
    pub bus: Bus,
}

/// Whose broker is trusted.
#[derive(Args, Debug)]
pub struct Trust {
    /// Whose broker to connect to: same-user, everybody, or user ids like 0,1000
    #[arg(long, value_name = "WHO", default_value = "same-user", value_parser = values::access)]
    pub access: Access,
}

/// `llmp broker`
#[derive(Args, Debug)]
#[command(after_help = BROKER_HELP)]
pub struct Broker {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Length of an ordinary page [default: 256KiB]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub page_len: Option<usize>,
    /// The longest message [default: 3MiB]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub max_message_len: Option<usize>,
    /// The most shared memory that each process takes [default: 8MiB, or what two of the longest
    /// messages need]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub chain_budget: Option<usize>,
    /// From this length on messages are lent, not copied, to their receivers [default: 8KiB]
    #[arg(long, value_name = "BYTES", value_parser = values::size)]
    pub lend_from: Option<usize>,
    /// How many clients are admitted at a time [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_clients: Option<u32>,
    /// Who may connect: same-user, everybody, or user ids like 0,1000
    #[arg(long, value_name = "WHO", default_value = "same-user", value_parser = values::access)]
    pub access: Access,
}

const BROKER_HELP: &str = "\
Sizes are bytes, or end in KiB, MiB or GiB.

Examples:
  llmp broker logs
  llmp broker ./logs.sock --max-message-len 64MiB
  llmp broker /run/logs.sock --access everybody

A name stands for a socket in $XDG_RUNTIME_DIR/llmp, or else in a directory of the user's own
below /tmp. A killed broker can simply be started again.";

/// `llmp send`
#[derive(Args, Debug)]
#[command(after_help = SEND_HELP)]
pub struct Send {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// A number by which receivers tell kinds of messages apart
    #[arg(long, value_name = "T", default_value_t = 0)]
    pub tag: u32,
    /// Every line is a message, without its newline
    #[arg(long, conflicts_with = "chunk")]
    pub lines: bool,
    /// Every so many bytes are a message; without this, what comes in at one go is one, up to 64KiB
    #[arg(long, value_name = "BYTES", value_parser = values::chunk_len)]
    pub chunk: Option<usize>,
    /// Waits until so many clients receive; 0 sends at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub receivers: usize,
    /// Waits for receivers only so long, then fails
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub timeout: Option<Duration>,
    /// Whose broker.
    #[command(flatten)]
    pub trust: Trust,
    /// What to send; standard input if nothing is said, or for '-'
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

const SEND_HELP: &str = "\
Examples:
  journalctl -f | llmp send logs --lines
  echo stop | llmp send control --lines --tag 7
  llmp send video film.mkv              # elsewhere: llmp recv video --format raw > film.mkv
  llmp send logs --receivers 3 --timeout 10 --lines notes.txt

It ends when the broker has taken everything. While the slowest receiver holds all of the bus's
memory, it waits; nothing is thrown away.";

/// `llmp recv`
#[derive(Args, Debug)]
#[command(after_help = RECV_HELP)]
pub struct Recv {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Only messages with this tag
    #[arg(long, value_name = "T")]
    pub tag: Option<u32>,
    /// Ends after so many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// How messages are written
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    pub format: Format,
    /// Fails if no message comes for so long
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub timeout: Option<Duration>,
    /// Whose broker.
    #[command(flatten)]
    pub trust: Trust,
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The payloads, one after the other, and nothing else
    Raw,
    /// Each payload and a newline
    Lines,
    /// An object in each line: id, sender, tag, flags, len, and payload if it is UTF-8 or else
    /// payload_hex
    Json,
}

const RECV_HELP: &str = "\
Examples:
  llmp recv logs
  llmp recv control --tag 7 --count 1 --timeout 60
  llmp recv video --format raw > film.mkv
  llmp recv logs --format json | jq -r .payload

It gets what is sent after it has connected. It ends with status 0 after --count messages, when
the broker ends in order, when its standard output is closed, and with Ctrl-C; with status 1 when
the broker was killed.";

/// `llmp demo`
#[derive(Args, Debug)]
#[command(after_help = DEMO_HELP)]
pub struct Demo {
    /// The directory whose files are exchanged; it is only read
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

const DEMO_HELP: &str = "\
Examples:
  llmp demo
  llmp demo /usr/share/doc

A broker and three clients, each a process, share the files out among themselves. Every client
sends its files in messages of many sizes to both others, which count every message and compare
the SHA-256 of every file. Status 0 if and only if every file arrived whole everywhere.
It shows how far it is; on two idle processors it delivers more than a GiB a second.";

/// A process of a demo.
#[derive(Args, Debug)]
pub struct DemoChild {
    /// The bus's socket.
    pub socket: PathBuf,
}

/// Why a command line names nothing to run.
#[derive(Debug)]
pub enum Instead {
    /// Help or the version, as it was asked for.
    Shown(clap::Error),
    /// Help, since nothing was asked for.
    Nothing(clap::Error),
    /// Something is wrong with it.
    Wrong(Failure),
}

impl Instead {
    /// Says it. Returns the status to end with.
    pub fn report(&self) -> ExitCode {
        match self {
            Instead::Shown(help) => {
                let _ = help.print();
                ExitCode::SUCCESS
            }
            Instead::Nothing(help) => {
                let _ = help.print();
                Failure::silent(2).report()
            }
            Instead::Wrong(failure) => failure.report(),
        }
    }
}

/// Reads the words of a command line, the program's name first. Whatever is wrong with it is said
/// in one line.
pub fn parse(words: &[OsString]) -> Result<Program, Instead> {
    Program::try_parse_from(words).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Instead::Shown(error),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => Instead::Nothing(error),
        _ => {
            let command = words.get(1).and_then(|word| word.to_str());
            let command = command.filter(|word| Command::has_subcommand(word));
            Instead::Wrong(Failure::usage(one_line(&error.render().to_string(), command)))
        }
    })
}

/// The text of an error, which has paragraphs, in one line that ends with where to get help.
fn one_line(text: &str, command: Option<&str>) -> String {
    let mut line = String::new();
    for paragraph in text.split("\n\n") {
        let paragraph = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        let is_help = ["Usage: ", "For more information"].iter().any(|p| paragraph.starts_with(p));
        if !is_help && !paragraph.is_empty() {
            line.push_str(paragraph.trim_start_matches("error: "));
            line.push_str("; ");
        }
    }
    match command {
        Some(command) => line + "see: llmp " + command + " --help",
        None => line + "see: llmp --help",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn an_error_is_one_line_that_says_where_to_get_help() {
        let error = Program::try_parse_from(["llmp", "recv", "x", "--cuont", "3"]).unwrap_err();
        let line = one_line(&error.render().to_string(), Some("recv"));
        assert!(line.starts_with("unexpected argument '--cuont' found; "), "{line}");
        assert!(line.contains("'--count'"), "{line}");
        assert!(line.ends_with("; see: llmp recv --help") && !line.contains('\n'), "{line}");
    }
}
