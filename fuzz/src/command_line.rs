//! The command line's own inputs: its words, the values in them, the lines that it sends, the
//! messages that it writes.

use super::input::Input;
use super::program::arguments::{self, Command, Format, Instead, Program};
use super::program::lines::{Lines, Oversize, Piece};
use super::program::{format, values};
use super::seen::Seen;
use llmp::{BusAddr, ClientId, Envelope, Flags, Message, PeerFilter};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

pub use super::seeds::command_line::WORDS;

pub fn run(bytes: &[u8]) -> Seen {
    let mut input = Input::new(bytes);
    let mut seen = Seen::default();
    match input.below(4) {
        0 => words(&mut input, &mut seen),
        1 => value(input.rest(), &mut seen),
        2 => lines(&mut input, &mut seen),
        _ => written(&mut input, &mut seen),
    }
    seen
}

/// Any words: a program to run, help, or one line that names the error, and status 2.
fn words(input: &mut Input, seen: &mut Seen) {
    let mut words = vec![OsString::from("llmp")];
    while !input.is_over() && words.len() < 32 {
        words.push(match WORDS.get(usize::from(input.byte())) {
            Some(word) => word.into(),
            None => {
                let len = input.below(24);
                OsString::from_vec(input.bytes(len).to_vec())
            }
        });
    }
    match arguments::parse(&words) {
        Ok(program) => {
            seen.mark("a command");
            check(&program);
        }
        Err(Instead::Shown(help)) => {
            seen.mark("help");
            assert_eq!(help.exit_code(), 0);
            assert!(!help.render().to_string().is_empty());
        }
        Err(Instead::Nothing(help)) => {
            seen.mark("no command");
            assert!(!help.render().to_string().is_empty());
        }
        Err(Instead::Wrong(failure)) => {
            seen.mark("a usage error");
            let text = failure.to_string();
            assert_eq!(failure.status(), 2, "{text}");
            assert!(!text.contains('\n') && text.ends_with("--help"), "{text:?}");
        }
    }
}

/// Checks what the commands rely on.
fn check(program: &Program) {
    assert!(!format!("{program:?}").is_empty());
    match &program.command {
        Command::Broker(broker) => {
            assert!(broker.max_clients.is_none_or(|n| (1..=65536).contains(&n)));
            named(&broker.place.bus);
        }
        Command::Send(send) => {
            assert!(send.chunk != Some(0) && !(send.lines && send.chunk.is_some()));
            named(&send.place.bus);
        }
        Command::Recv(recv) => named(&recv.place.bus),
        Command::Stop(stop) => named(&stop.place.bus),
        Command::Soak(soak) => {
            assert!(!soak.minutes.is_zero() && (1..=300).contains(&soak.clients));
        }
        Command::Demo(_)
        | Command::DemoBroker(_)
        | Command::DemoClient(_)
        | Command::SoakBroker(_)
        | Command::SoakClient(_) => {}
    }
}

/// Checks that a name can't leave the directory of named buses.
fn named(bus: &BusAddr) {
    let has_slash = |text: &[u8]| text.contains(&b'/');
    match bus {
        BusAddr::Path(path) => assert!(has_slash(path.as_os_str().as_bytes())),
        BusAddr::Name(name) => {
            let is_plain = !name.is_empty() && !name.starts_with('.');
            assert!(is_plain && !has_slash(name.as_bytes()), "{name:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Parses one text as every kind of value, and compares with the simplest parser.
fn value(bytes: &[u8], seen: &mut Seen) {
    if let Ok(bus) = values::bus(OsStringExt::from_vec(bytes.to_vec())) {
        seen.mark("a bus");
        named(&bus);
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return seen.mark("no text") };
    assert_eq!(values::size(text).ok(), size(text), "{text:?}");
    assert_eq!(values::chunk_len(text).ok(), size(text).filter(|&len| len > 0), "{text:?}");
    if size(text).is_some() {
        seen.mark("a size");
    }
    if let Ok(PeerFilter::Users(users)) = values::access(text) {
        seen.mark("users");
        let again = users.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        assert_eq!(values::access(&again), Ok(PeerFilter::Users(users)), "{text:?}");
    }
    if let Ok(duration) = values::seconds(text) {
        seen.mark("seconds");
        let seconds: f64 = match text {
            values::FOR_EVER => Duration::MAX.as_secs_f64(),
            _ => text.parse().expect("a number"),
        };
        let error = (duration.as_secs_f64() - seconds).abs();
        assert!(error <= 1e-9 + seconds * 1e-15, "{text:?} is {duration:?}");
    }
}

fn size(text: &str) -> Option<usize> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1u128 << 30), ("B", 1)];
    let unit = units.into_iter().find_map(|(unit, by)| Some((text.strip_suffix(unit)?, by)));
    let (number, by) = unit.unwrap_or((text, 1));
    // More digits than any number in memory has.
    let digits = number.strip_prefix('+').unwrap_or(number).trim_start_matches('0');
    let is_number = number.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    let value = if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let value = value.filter(|_| is_number)?.checked_mul(by)?;
    usize::try_from(value).ok()
}

/// However an input arrives in pieces, its lines are the texts between its newlines. A line above
/// the limit stops none after it.
fn lines(input: &mut Input, seen: &mut Seen) {
    let (max_len, piece_len) = (input.below(40), 1 + input.below(40));
    let oversize = [Oversize::Error, Oversize::Skip, Oversize::Split][input.below(3)];
    let text = input.rest();
    let (mut lines, mut found) = (Lines::new(max_len, oversize), Vec::new());
    let mut take = |piece: Piece<'_>| {
        found.push(match piece {
            Piece::Line(line) => Ok(line.to_vec()),
            Piece::TooLong(number) => Err(number),
        });
        Ok::<(), ()>(())
    };
    for piece in text.chunks(piece_len) {
        lines.push(piece, &mut take).expect("nothing fails");
    }
    lines.finish(&mut take).expect("nothing fails");
    let ended = text.strip_suffix(b"\n").unwrap_or(text);
    let mut expected = Vec::new();
    for (line, number) in ended.split(|byte| *byte == b'\n').zip(1..).filter(|_| !text.is_empty()) {
        if line.len() <= max_len {
            seen.mark("a line");
            expected.push(Ok(line.to_vec()));
        } else if oversize == Oversize::Split && max_len > 0 {
            seen.mark("a line in parts");
            expected.extend(line.chunks(max_len).map(|part| Ok(part.to_vec())));
        } else {
            seen.mark("too long a line");
            expected.push(Err(number));
        }
    }
    assert_eq!(found, expected);
}

/// What is written can be read back.
fn written(input: &mut Input, seen: &mut Seen) {
    let envelope = Envelope::tagged(u32::from(input.half()))
        .with_flags(Flags(input.half()))
        .with_sender(ClientId(u32::MAX - u32::from(input.byte())));
    let message = Message::new(&envelope, input.word(), input.rest());
    let write = |format| {
        let mut out = Vec::new();
        format::write(&mut out, format, &message).expect("memory can be written");
        out
    };
    assert_eq!(write(Format::Raw), message.payload);
    assert_eq!(write(Format::Lines).strip_suffix(b"\n"), Some(message.payload));
    let json = write(Format::Json);
    let newlines = json.iter().filter(|byte| **byte == b'\n').count();
    assert!(newlines == 1 && json.ends_with(b"\n"), "an object is one line");
    let object: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    let numbers = [
        ("id", message.seq),
        ("sender", message.sender.0.into()),
        ("tag", message.tag.0.into()),
        ("flags", message.flags.0.into()),
        ("len", message.payload.len() as u64),
    ];
    for (name, number) in numbers {
        assert_eq!(object[name].as_u64(), Some(number), "{name}");
    }
    let payload = match (object["payload"].as_str(), object["payload_hex"].as_str()) {
        (Some(text), None) => {
            seen.mark("text in JSON");
            text.as_bytes().to_vec()
        }
        (None, Some(digits)) => {
            seen.mark("bytes in JSON");
            let pairs = digits.as_bytes().chunks(2);
            let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
            pairs.map(|pair| byte(pair).expect("two digits")).collect()
        }
        both => panic!("{both:?}"),
    };
    assert_eq!(payload, message.payload);
}
