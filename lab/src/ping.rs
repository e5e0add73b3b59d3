//! A ping that runs in the background and counts its lost packets.

use std::process::Child;
use std::time::Duration;

use crate::background::Background;
use crate::{Error, Output, Result, underlay, wait};

/// A running ping, which sends a packet every 20 ms until [`Ping::stop`] or drop.
#[derive(Debug)]
pub struct Ping {
    process: Background,
    log: std::path::PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PingReport {
    pub sent: u32,
    pub received: u32,
}

impl PingReport {
    pub fn lost(self) -> u32 {
        self.sent - self.received.min(self.sent)
    }

    /// Whether no packet was lost, or at most one in ten where `CONTIV_TEST_NETEM` makes the underlay
    /// lose and delay packets.
    pub fn is_whole(self) -> bool {
        let lossy = underlay::netem().is_some();
        self.lost() <= if lossy { self.sent / 10 } else { 0 }
    }
}

pub(crate) const PING_ARGV: [&str; 4] = ["ping", "-n", "-i", "0.02"];

impl Ping {
    /// Returns once the first answer has come.
    pub(crate) fn started(child: Child, log: std::path::PathBuf) -> Result<Self> {
        let ping = Self {
            process: Background::of(child),
            log,
        };
        wait::wait_until("a ping is answered", Duration::from_secs(10), || {
            ping.answered() > 0 || !ping.process.is_alive()
        })?;
        Ok(ping)
    }

    /// The number of answers so far.
    pub fn answered(&self) -> u32 {
        let lines = text(&self.log)
            .lines()
            .filter(|l| l.contains("icmp_seq=") && l.contains("time="))
            .count();
        u32::try_from(lines).unwrap_or(u32::MAX)
    }

    /// Waits for `more` further answers, which prove that the path works now.
    pub fn wait_for(&self, more: u32) -> Result<()> {
        let goal = self.answered() + more;
        wait::wait_until("more pings are answered", Duration::from_secs(10), || {
            self.answered() >= goal
        })
    }

    /// Ends the ping. A packet in flight at that moment counts as not sent.
    pub fn stop(self) -> Result<PingReport> {
        self.process.interrupt()?;
        let text = text(&self.log);
        report(&text).ok_or_else(|| Error::Command {
            host: "lab".to_owned(),
            command: "ping".to_owned(),
            status: "without a summary".to_owned(),
            output: text,
        })
    }
}

fn text(log: &std::path::Path) -> String {
    std::fs::read_to_string(log).unwrap_or_default()
}

fn report(text: &str) -> Option<PingReport> {
    let summary = text.lines().find(|l| l.contains("packets transmitted"))?;
    let mut numbers = summary
        .split(", ")
        .filter_map(|part| part.split(' ').next()?.parse().ok());
    let (sent, received): (u32, u32) = (numbers.next()?, numbers.next()?);
    let last = text.lines().rev().find_map(sequence).unwrap_or(0);
    // If only the last packet is missing, it was in flight.
    let in_flight = u32::from(sent == received + 1 && last + 1 == sent);
    Some(PingReport {
        sent: sent - in_flight,
        received,
    })
}

fn sequence(line: &str) -> Option<u32> {
    let (_, rest) = line.split_once("icmp_seq=")?;
    rest.split(' ')
        .next()?
        .parse()
        .ok()
        .filter(|_| line.contains("time="))
}

pub(crate) fn answers(output: &Output) -> bool {
    output.success()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER_LINES: &str = "64 bytes from 1.1.1.1: icmp_seq=1 ttl=62 time=0.1 ms\n\
                         64 bytes from 1.1.1.1: icmp_seq=2 ttl=62 time=0.1 ms\n";

    #[test]
    fn report_counts_lost_packets() {
        let text = format!(
            "{ANSWER_LINES}\n4 packets transmitted, 2 received, 50% packet loss, time 1ms\n"
        );
        assert_eq!(
            report(&text),
            Some(PingReport {
                sent: 4,
                received: 2
            })
        );
    }

    #[test]
    fn packet_in_flight_at_the_end_is_not_lost() {
        let text = format!(
            "{ANSWER_LINES}\n3 packets transmitted, 2 received, 33% packet loss, time 1ms\n"
        );
        assert_eq!(report(&text).map(PingReport::lost), Some(0));
    }

    #[test]
    fn packet_lost_in_between_counts() {
        let text = "64 bytes from 1.1.1.1: icmp_seq=1 ttl=62 time=0.1 ms\n\
                    64 bytes from 1.1.1.1: icmp_seq=3 ttl=62 time=0.1 ms\n\
                    3 packets transmitted, 2 received, 33% packet loss, time 1ms\n";
        assert_eq!(report(text).map(PingReport::lost), Some(1));
    }
}
