//! Command lines, and inputs that pass through the program.

use super::{Seed, Seeds};

/// Words of a command line. An input names them by index.
pub const WORDS: [&str; 56] = [
    "broker",
    "send",
    "recv",
    "demo",
    "demo-broker",
    "demo-client",
    "help",
    "--help",
    "-h",
    "--version",
    "-V",
    "-v",
    "--verbose",
    "--",
    "-",
    "",
    "logs",
    "./logs.sock",
    ".hidden",
    "--page-len",
    "--max-message-len",
    "--chain-budget",
    "--max-clients",
    "--access",
    "--tag",
    "--lines",
    "--chunk",
    "--receivers",
    "--timeout",
    "--count",
    "--format",
    "raw",
    "lines",
    "json",
    "same-user",
    "everybody",
    "0,1000",
    "0",
    "1",
    "7",
    "65536",
    "65537",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "64KiB",
    "1MiB",
    "17179869184GiB",
    "0.5",
    "-1",
    "nan",
    "1e400",
    "--tag=7",
    "--chunk=0",
    "--cuont",
    "a\n\nUsage: b",
];

/// A word by its index, or the word itself.
fn line(words: &[&str]) -> Vec<u8> {
    let seed = words.iter().fold(Seed::default().byte(0), |seed, word| {
        match WORDS.iter().position(|known| known == word) {
            Some(place) => seed.byte(place as u8),
            None => seed.byte(255).byte(word.len() as u8).bytes(word.as_bytes()),
        }
    });
    seed.0
}

/// An input of the splitter: the longest line, the length of the pieces in which the text arrives,
/// the handling of longer lines, and the text.
fn lines(max_len: u8, piece_len: u8, oversize: u8, text: &[u8]) -> Vec<u8> {
    let seed = Seed::default().byte(2).byte(max_len).byte(piece_len - 1);
    seed.byte(oversize).bytes(text).0
}

fn message(payload: &[u8]) -> Vec<u8> {
    Seed::default().byte(3).half(7).half(u16::MAX).byte(1).word(u64::MAX).bytes(payload).0
}

pub fn seeds() -> Seeds {
    let mut seeds: Seeds = [
        ("nothing", &[][..]),
        ("broker", &["broker", "logs", "--page-len", "64KiB", "--max-clients", "65536"]),
        ("broker_of_sizes", &["broker", "./logs.sock", "--max-message-len", "1MiB", "-v"]),
        ("too_many_clients", &["broker", "logs", "--max-clients", "65537"]),
        ("too_large", &["broker", "logs", "--chain-budget", "17179869184GiB"]),
        ("send", &["send", "logs", "--lines", "--tag", "7", "--", "-", "a file"]),
        ("send_chunks", &["send", "logs", "--chunk", "64KiB", "--timeout", "0.5"]),
        ("lines_and_chunks", &["send", "logs", "--lines", "--chunk", "1"]),
        ("empty_chunks", &["send", "logs", "--chunk=0"]),
        ("too_large_a_tag", &["send", "logs", "--tag", "4294967296"]),
        ("no_time", &["send", "logs", "--timeout", "nan"]),
        ("recv", &["recv", "logs", "--format", "json", "--count", "1", "--access", "0,1000"]),
        ("recv_of_no_format", &["recv", "logs", "--format", "xml"]),
        ("a_wrong_option", &["recv", "logs", "--cuont", "1"]),
        ("a_wrong_option_of_two_lines", &["recv", "logs", "a\n\nUsage: b"]),
        ("recv_waiting", &["recv", "logs", "--wait", "--until-eof", "--reconnect", "--tag", "7"]),
        ("send_waiting", &["send", "logs", "--wait=0.5", "--eof", "--oversize", "split"]),
        ("ready", &["broker", "logs", "--ready-fd", "1"]),
        ("no_number", &["recv", "logs", "--count", "abc"]),
        ("no_bus", &["recv"]),
        ("a_hidden_bus", &["recv", ".hidden"]),
        ("an_empty_bus", &["recv", ""]),
        ("demo", &["demo", "/"]),
        ("a_child", &["demo-client", "./logs.sock"]),
        ("help", &["--help"]),
        ("help_of_a_command", &["send", "-h"]),
        ("version", &["-V"]),
        ("no_command", &["logs"]),
    ]
    .into_iter()
    .map(|(name, words)| (name.to_owned(), line(words)))
    .collect();
    let no_text = [0, 255, 3, 0xff, 0xfe, b'/'];
    seeds.push(("no_text".to_owned(), no_text.to_vec()));
    for (i, value) in [
        "65536",
        "+64KiB",
        "3MiB",
        "017179869183GiB",
        "17179869184GiB",
        "1B",
        "KiB",
        "1KB",
        "0,1000",
        "1, 2",
        "0.5",
        "-0",
        "1e-9",
        "1e19",
        "inf",
        "/",
        "\u{e9}",
    ]
    .iter()
    .enumerate()
    {
        seeds.push((format!("value_{i}"), Seed::default().byte(1).bytes(value.as_bytes()).0));
    }
    seeds.push(("value_no_text".to_owned(), Seed::default().byte(1).byte(0xff).0));
    for (name, max_len, piece_len, oversize, text) in [
        ("empty", 4, 1, 0, &b""[..]),
        ("one", 4, 8, 0, b"abc"),
        ("newlines", 4, 3, 0, b"\n\n\n"),
        ("in_pieces", 8, 2, 0, b"ab\ncdefgh\n\xff\0\r\nlast"),
        ("at_the_limit", 4, 16, 0, b"1234\n1234"),
        ("above_the_limit", 4, 16, 0, b"1234\n12345\nthen"),
        ("left_out", 4, 3, 1, b"12345\n1\n12345"),
        ("in_parts", 4, 3, 2, b"12345678\n123456789\n\n1"),
        ("nothing_fits", 0, 1, 2, b"\n\nx"),
    ] {
        seeds.push((format!("lines_{name}"), lines(max_len, piece_len, oversize, text)));
    }
    for (name, payload) in [
        ("empty", &b""[..]),
        ("text", "a\"\\\n\u{0}\u{7f}\u{2028}\u{1f980}".as_bytes()),
        ("bytes", b"\n\xff\x00"),
        ("half_a_character", "\u{1f980}".as_bytes().split_at(3).0),
    ] {
        seeds.push((format!("message_{name}"), message(payload)));
    }
    seeds
}
