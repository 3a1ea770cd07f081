//! The results of a demo.

use super::note::{BrokerReport, Chain, ClientReport};
use crate::values::human;
use std::fmt;
use std::time::Duration;

/// The results of a demo, to be printed.
#[derive(Debug)]
pub struct Table {
    clients: Vec<ClientReport>,
    broker: BrokerReport,
    elapsed: Duration,
}

impl Table {
    /// Makes the table from the reports of the processes.
    pub fn new(clients: Vec<ClientReport>, broker: BrokerReport, elapsed: Duration) -> Self {
        Table { clients, broker, elapsed }
    }

    /// Returns the number of files sent.
    pub fn files(&self) -> u64 {
        self.clients.iter().map(|client| client.sent_files).sum()
    }

    /// Returns what is wrong, unless every client has received all messages and files of the
    /// others.
    pub fn wrong(&self) -> Option<String> {
        if self.broker.faults > 0 {
            return Some(format!("the broker reported {} faults; see above", self.broker.faults));
        }
        let files = self.files();
        let messages: u64 = self.clients.iter().map(|client| client.sent_messages).sum();
        for (client, number) in self.clients.iter().zip(1..) {
            let (got, received) = (client.received.files, &client.received);
            let expected = files - client.sent_files;
            if got != expected {
                return Some(format!(
                    "only {got} of {expected} files arrived whole at client {number}"
                ));
            }
            let expected = messages - client.sent_messages;
            if received.messages != expected {
                let got = received.messages;
                return Some(format!("{got} of {expected} messages arrived at client {number}"));
            }
        }
        let bad = |client: &ClientReport| {
            let received = client.received;
            received.lost + received.duplicated + received.corrupt
        };
        let bad: u64 = self.clients.iter().map(bad).sum();
        (bad > 0).then(|| "messages were lost, duplicated or corrupt".into())
    }

    fn sum(&self, part: impl Fn(&ClientReport) -> u64) -> u64 {
        self.clients.iter().map(part).sum()
    }

    fn chains(&self, part: impl Fn(&Chain) -> u64) -> u64 {
        self.sum(|client| part(&client.chain)) + part(&self.broker.chain)
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64();
        let messages = self.sum(|client| client.received.messages);
        let bytes = self.sum(|client| client.received.bytes);
        let processes = self.clients.len() + 1;
        let mut row = |name: &str, value: String, note: &str| {
            writeln!(f, "{}", format!("{name:<22}{value:>16}  {note}").trim_end())
        };
        row("files", self.files().to_string(), "")?;
        row("messages delivered", messages.to_string(), "")?;
        row("bytes delivered", bytes.to_string(), &human(bytes))?;
        row("seconds", format!("{seconds:.3}"), "")?;
        row("messages/s", format!("{:.0}", messages as f64 / seconds), "")?;
        row("GiB/s", format!("{:.3}", bytes as f64 / seconds / (1u64 << 30) as f64), "")?;
        row("page rollovers", self.chains(|chain| chain.rollovers).to_string(), "of all chains")?;
        row("pages written again", self.chains(|chain| chain.reuses).to_string(), "")?;
        let peak = human(self.chains(|chain| chain.bytes_peak));
        let note = format!("sum of the peaks of {processes} processes");
        row("peak shared memory", peak, &note)?;
        let lost = self.sum(|client| client.received.lost);
        let duplicated = self.sum(|client| client.received.duplicated);
        let corrupt = self.sum(|client| client.received.corrupt);
        writeln!(f, "lost {lost}, duplicated {duplicated}, corrupt {corrupt}")
    }
}
