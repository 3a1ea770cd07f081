//! The formats of received messages.

use super::arguments::Format;
use llmp::Message;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write};

/// A message as a JSON object in one line. The format is lossless. A payload that is not UTF-8 is
/// written in hexadecimal digits under another name.
#[derive(Serialize)]
struct Object<'a> {
    id: u64,
    sender: u32,
    tag: u32,
    flags: u16,
    len: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
}

/// Writes one message.
pub fn write(out: &mut impl Write, format: Format, message: &Message<'_>) -> io::Result<()> {
    match format {
        Format::Raw => out.write_all(message.payload),
        Format::Lines => {
            out.write_all(message.payload)?;
            out.write_all(b"\n")
        }
        Format::Json => {
            let payload = std::str::from_utf8(message.payload).ok();
            let object = Object {
                id: message.seq,
                sender: message.sender.0,
                tag: message.tag.0,
                flags: message.flags.0,
                len: message.payload.len(),
                payload,
                payload_hex: payload.is_none().then(|| hex(message.payload)),
            };
            serde_json::to_writer(&mut *out, &object)?;
            out.write_all(b"\n")
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string never fails.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmp::{ClientId, Envelope, Flags, Tag};

    fn written(format: Format, payload: &[u8]) -> Vec<u8> {
        let (tag, flags, sender) = (Tag(7), Flags(5), ClientId(3));
        let envelope = Envelope::tagged(tag).with_flags(flags).with_sender(sender);
        let message = Message::new(&envelope, 9, payload);
        let mut out = Vec::new();
        write(&mut out, format, &message).unwrap();
        out
    }

    #[test]
    fn every_format_is_lossless() {
        assert_eq!(written(Format::Raw, b"a\xff\n"), b"a\xff\n");
        assert_eq!(written(Format::Lines, b"a\xff"), b"a\xff\n");
        let text = r#"{"id":9,"sender":3,"tag":7,"flags":5,"len":4,"payload":"a\"\n\u0000"}"#;
        assert_eq!(written(Format::Json, b"a\"\n\0"), [text.as_bytes(), b"\n"].concat());
        let binary = r#"{"id":9,"sender":3,"tag":7,"flags":5,"len":2,"payload_hex":"0aff"}"#;
        assert_eq!(written(Format::Json, b"\n\xff"), [binary.as_bytes(), b"\n"].concat());
    }
}
