//! The arguments of the command line.

use super::failure::{Failure, STATUSES};
use super::lines::Oversize;
use super::values;
use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use llmp::core::broker::ZERO_COPY_THRESHOLD;
use llmp::{BusAddr, Limits, PeerFilter, SlowReceiver};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exchange messages between processes on one machine through shared memory.
///
/// A bus has one broker. Clients connect to it by its name or by the path of its socket. An
/// argument with a slash is a path. Every receiver gets every message that is sent while it is
/// connected, once. All receivers get all messages in the same order.
#[derive(Debug, Parser)]
#[command(name = "llmp", version, after_help = format!("{PROGRAM_HELP}\n\n{STATUSES}"))]
pub struct Program {
    /// Log joins and leaves to stderr (RUST_LOG for more)
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
  tail -f app.log | llmp send logs --lines
To try it on your own files and measure it:
  llmp demo ~/Documents";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the broker of a bus until SIGINT, SIGTERM or SIGHUP
    Broker(Broker),
    /// Send lines, a stream or files to all receivers
    Send(Send),
    /// Receive messages from now on and write them to standard output
    Recv(Recv),
    /// End a bus: its broker forwards what was sent, and ends
    Stop(Stop),
    /// Exchange the files of a directory between three processes, check each file, and measure
    Demo(Demo),
    /// Kill and stop processes of a bus at random, and check that no message is lost
    Soak(Soak),
    /// The broker of a demo.
    #[command(hide = true)]
    DemoBroker(DemoChild),
    /// A client of a demo.
    #[command(hide = true)]
    DemoClient(DemoChild),
    /// A broker of a soak.
    #[command(hide = true)]
    SoakBroker(SoakBroker),
    /// A client of a soak.
    #[command(hide = true)]
    SoakClient(SoakClient),
}

/// The address of the bus.
#[derive(Args, Debug)]
pub struct Place {
    /// The bus: a name, or the path of a socket if it contains a slash
    #[arg(value_parser = OsStringValueParser::new().try_map(values::bus))]
    pub bus: BusAddr,
}

/// The users whose broker is trusted.
#[derive(Args, Debug)]
pub struct Trust {
    /// Connect only to brokers of these users: same-user, everybody, or user ids like 0,1000
    #[arg(long, value_name = "USERS", default_value = "same-user", value_parser = values::access)]
    pub access: PeerFilter,
}

/// `llmp broker`
#[derive(Args, Debug)]
#[command(after_help = BROKER_HELP)]
pub struct Broker {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Length of an ordinary page.
    #[arg(long, value_name = "BYTES", value_parser = values::size,
        help = default("Set the length of an ordinary page", Limits::DEFAULT_PAGE_LEN))]
    pub page_len: Option<usize>,
    /// The longest message.
    #[arg(long, value_name = "BYTES", value_parser = values::size,
        help = default("Set the longest message", Limits::DEFAULT_MAX_MESSAGE_LEN))]
    pub max_message_len: Option<usize>,
    /// The most shared memory of each chain.
    #[arg(long, value_name = "BYTES", value_parser = values::size,
        help = default("Limit the shared memory of each chain; at least twice the longest message", Limits::DEFAULT_BUDGET))]
    pub chain_budget: Option<usize>,
    /// The length from which messages are passed by reference.
    #[arg(long, value_name = "BYTES", value_parser = values::size,
        help = default("Pass messages of at least BYTES by reference instead of copying", ZERO_COPY_THRESHOLD))]
    pub zero_copy_threshold: Option<usize>,
    /// Admit at most N clients at a time [default: 1024, or fewer if this process has too few
    /// descriptors or mappings]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub max_clients: Option<u32>,
    /// What to do about a receiver that is too slow, so that its unread messages fill --chain-budget
    #[arg(long, value_name = "HOW", value_enum, default_value_t = WhenSlow::Block)]
    pub when_slow: WhenSlow,
    /// Wait SECONDS for a slow receiver before it is skipped or evicted [default: 0]
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub slow_after: Option<Duration>,
    /// Admit these users: same-user, everybody, or user ids like 0,1000. Opens the socket to other
    /// users. The directories above it must be open to them, too
    #[arg(long, value_name = "USERS", default_value = "same-user", value_parser = values::access)]
    pub access: PeerFilter,
    /// If another process serves the bus, wait until it ends, and then serve the bus. Clients with
    /// --outlive go on with this broker, and others must connect again
    #[arg(long)]
    pub standby: bool,
    /// If another process serves the bus, ask it to hand the bus over, and then serve the bus
    #[arg(long)]
    pub replace: bool,
    /// Run the broker in a child process, and start it again when it dies
    #[arg(long)]
    pub respawn: bool,
    /// This broker follows one that has died. The process that has said "ready" is not told again.
    #[arg(long, hide = true)]
    pub respawned: bool,
    /// Write the line "ready PATH" to descriptor N once clients can connect; 1 is standard output
    #[arg(long, value_name = "N", value_parser = values::descriptor)]
    pub ready_fd: Option<u32>,
}

/// What to do about a receiver that is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WhenSlow {
    /// Wait for it: no message is lost, and senders wait too
    Block,
    /// Go on without it: it loses the messages that it has not received, and learns how many
    Skip,
    /// Disconnect it
    Evict,
}

impl From<WhenSlow> for SlowReceiver {
    fn from(when_slow: WhenSlow) -> Self {
        match when_slow {
            WhenSlow::Block => SlowReceiver::Block,
            WhenSlow::Skip => SlowReceiver::Skip,
            WhenSlow::Evict => SlowReceiver::Evict,
        }
    }
}

/// Appends the default, which is a constant of the library, to a help text.
fn default(text: &str, bytes: usize) -> String {
    format!("{text} [default: {}]", values::size_text(bytes))
}

/// `llmp stop`
#[derive(Args, Debug)]
#[command(after_help = STOP_HELP)]
pub struct Stop {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Fail if the broker has not ended within SECONDS
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = values::seconds)]
    pub timeout: Duration,
}

const STOP_HELP: &str = "\
Examples:
  llmp stop logs

The broker must run as this user. It forwards the messages that were sent, says goodbye to its
clients, and ends. Brokers that wait (--standby) end, too.";

const BROKER_HELP: &str = "\
Sizes are bytes, or end in KiB, MiB or GiB.

Examples:
  llmp broker logs
  llmp broker ./logs.sock --max-message-len 64MiB
  llmp broker ./logs.sock --access everybody
  llmp broker logs --ready-fd 1
  llmp broker logs --when-slow skip
  llmp broker logs --standby
  llmp broker logs --respawn
  llmp broker logs --replace

Ctrl-C and `llmp stop` end the bus. SIGTERM hands it over if another broker waits (--standby), or if
systemd has started this one.

A name stands for a socket in $XDG_RUNTIME_DIR/llmp, or else in a directory of this user below
/tmp. A broker that was killed can be started again. Under systemd (Type=notify) the broker reports
when it is ready, and serves the socket that it was passed (ListenSequentialPacket=).";

/// `llmp send`
#[derive(Args, Debug)]
#[command(after_help = SEND_HELP)]
pub struct Send {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Mark messages with tag T, by which receivers distinguish kinds of messages
    #[arg(long, value_name = "T", default_value_t = 0, value_parser = values::tag)]
    pub tag: u32,
    /// Send each line as a message, without its newline
    #[arg(long, conflicts_with = "chunk")]
    pub lines: bool,
    /// Split the input into messages of BYTES [default: one message per read, up to 64KiB]
    #[arg(long, value_name = "BYTES", value_parser = values::chunk_len)]
    pub chunk: Option<usize>,
    /// What to do with a line longer than the limit of the bus
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Oversize::Error)]
    pub oversize: Oversize,
    /// Wait until N clients receive, and fail if fewer remain at the end; 0 sends at once [default:
    /// wait for 1]
    #[arg(long, value_name = "N", value_parser = values::receivers)]
    pub receivers: Option<usize>,
    /// Fail if the receivers have not connected within SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub timeout: Option<Duration>,
    /// Mark the end of the transfer, for `recv --until-eof`
    #[arg(long)]
    pub eof: bool,
    /// Wait for a missing bus, for at most SECONDS if given
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, num_args = 0..=1,
        require_equals = true, default_missing_value = values::FOR_EVER)]
    pub wait: Option<Duration>,
    /// Go on with the next broker when this one dies, and wait for it for at most SECONDS [default
    /// without a number: 60]. No message is lost or comes twice
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, num_args = 0..=1,
        require_equals = true, default_missing_value = "60")]
    pub outlive: Option<Duration>,
    /// Continue when the broker ends and another one serves the bus. Messages that the first broker
    /// may not have forwarded are sent again, so receivers may get a message twice
    #[arg(long)]
    pub reconnect: bool,
    /// The trusted users.
    #[command(flatten)]
    pub trust: Trust,
    /// Send these files [default: standard input, as for '-']
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

const SEND_HELP: &str = "\
Examples:
  tail -f app.log | llmp send logs --lines
  echo stop | llmp send control --lines --tag 7
  llmp send video --eof film.mkv
  llmp send logs --receivers 3 --timeout 10 --lines notes.txt

The command ends when the broker has consumed all messages. It waits while the slowest receiver
holds all of the bus's memory. No message is dropped.";

/// `llmp recv`
#[derive(Args, Debug)]
#[command(after_help = RECV_HELP)]
pub struct Recv {
    /// The bus.
    #[command(flatten)]
    pub place: Place,
    /// Receive only messages with tag T
    #[arg(long, value_name = "T", value_parser = values::tag)]
    pub tag: Option<u32>,
    /// End after N messages
    #[arg(long, value_name = "N", value_parser = values::whole)]
    pub count: Option<u64>,
    /// How to write messages
    #[arg(long, value_enum, default_value_t = Format::Lines)]
    pub format: Format,
    /// Fail if no message arrives for SECONDS
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds)]
    pub timeout: Option<Duration>,
    /// End when a sender marks the end of its transfer (`send --eof`)
    #[arg(long)]
    pub until_eof: bool,
    /// Wait for a missing bus, for at most SECONDS if given
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, num_args = 0..=1,
        require_equals = true, default_missing_value = values::FOR_EVER)]
    pub wait: Option<Duration>,
    /// Go on with the next broker when this one dies, and wait for it for at most SECONDS [default
    /// without a number: 60]. No message is lost or comes twice
    #[arg(long, value_name = "SECONDS", value_parser = values::seconds, num_args = 0..=1,
        require_equals = true, default_missing_value = "60")]
    pub outlive: Option<Duration>,
    /// Continue when the broker ends and another one serves the bus
    #[arg(long)]
    pub reconnect: bool,
    /// What the bus does if this command receives too slowly [default: what its broker was told]
    #[arg(long, value_name = "HOW", value_enum)]
    pub when_slow: Option<WhenSlow>,
    /// The trusted users.
    #[command(flatten)]
    pub trust: Trust,
}

/// How to write messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Write the payloads one after the other and nothing else
    Raw,
    /// Write each payload and a newline
    Lines,
    /// Write an object per line: id, sender, tag, flags, len, and payload if it is UTF-8 or else
    /// payload_hex
    Json,
}

const RECV_HELP: &str = "\
Examples:
  llmp recv logs
  llmp recv control --tag 7 --count 1 --timeout 60
  llmp recv video --wait --until-eof --format raw > film.mkv
  llmp recv logs --format json > log.json

The command receives the messages that are sent after it has connected. It ends after --count
messages, at the end of a transfer with --until-eof, when the broker ends, when its standard output
is closed, and with Ctrl-C. The exit status gives the reason, see llmp --help.";

/// `llmp demo`
#[derive(Args, Debug)]
#[command(after_help = DEMO_HELP)]
pub struct Demo {
    /// Exchange the files of this directory, which is only read
    #[arg(default_value = ".")]
    pub dir: PathBuf,
}

const DEMO_HELP: &str = "\
Examples:
  llmp demo
  llmp demo /usr/share/doc

A broker and three clients, each a process, share the files among themselves. Every client sends
its files in messages of many sizes to both others. They count every message and compare the SHA-256
of every file. The exit status is 0 if and only if every file arrived whole at every client.
The command shows its progress. On two idle processors it delivers more than a GiB a second.";

/// A process of a demo.
#[derive(Args, Debug)]
pub struct DemoChild {
    /// The bus's socket.
    pub socket: PathBuf,
}

/// `llmp soak`
#[derive(Args, Debug)]
#[command(after_help = SOAK_HELP)]
pub struct Soak {
    /// How long to kill
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true,
        value_parser = values::minutes)]
    pub minutes: Duration,
    /// Choose what is done by this number [default: another one each time]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
    /// The number of clients at a time
    #[arg(long, value_name = "K", default_value_t = 8,
        value_parser = clap::value_parser!(u64).range(1..=300).map(|clients| clients as usize))]
    pub clients: usize,
    /// Keep the log of events even if nothing is wrong
    #[arg(long)]
    pub keep: bool,
}

const SOAK_HELP: &str = "\
Examples:
  llmp soak
  llmp soak --minutes 10 --clients 20

Three brokers, one of which serves, and the clients are processes of their own. About 30 times a second
one of them is killed, stopped for a while, or told to leave, and another one takes its place. For ten
seconds of each 25, brokers that serve are killed, too.

Every message is numbered. Each receiver must see all messages from its first one on, in the same order,
once, with the right bytes. If one does not, the command names the message, keeps its evidence, and
ends with status 1.";

/// A broker of a soak.
#[derive(Args, Debug)]
pub struct SoakBroker {
    /// The bus's socket.
    pub socket: PathBuf,
}

/// What a client of a soak does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Send and receive.
    Both,
    /// Send only.
    Sends,
    /// Receive only.
    Receives,
}

/// A client of a soak.
#[derive(Args, Debug)]
pub struct SoakClient {
    /// The bus's socket.
    pub socket: PathBuf,
    /// The number of this process.
    #[arg(long)]
    pub number: u32,
    /// It determines what is sent, and when.
    #[arg(long)]
    pub seed: u64,
    /// What the client does.
    #[arg(long, value_enum)]
    pub role: Role,
    /// What the bus does if this client is too slow.
    #[arg(long, value_enum)]
    pub when_slow: WhenSlow,
    /// The client ends with its broker.
    #[arg(long)]
    pub mortal: bool,
}

/// The result of a command line that names no command to run.
#[derive(Debug)]
pub enum Instead {
    /// Help or the version was requested.
    Shown(clap::Error),
    /// Nothing was requested, so help is shown.
    Nothing(clap::Error),
    /// The command line is invalid.
    Wrong(Failure),
}

impl Instead {
    /// Prints it. Returns the exit status.
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

/// Parses the words of a command line, starting with the program's name. An error is reported in
/// one line.
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

/// Joins the paragraphs of an error into one line that ends with a pointer to the help.
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
