//! Runs `dnsperf` on a node, and reads its output.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use chaos_tests::figures::quantile;
use lab::Lab;

/// The seconds of each run.
const RUN_SECONDS: &str = "1";
/// The queries per second of a paced run: about a third of the slowest target's rate.
const PACED_QUERIES: &str = "5000";
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// A server, the namespace of the client, and the queries.
pub(crate) struct Target {
    pub(crate) label: &'static str,
    enter: Vec<String>,
    server: String,
    questions: String,
    /// The queries of paced runs, where they differ.
    paced: String,
}

/// The measurements of all rounds.
#[derive(Default)]
pub(crate) struct Figures {
    rates: Vec<f64>,
    medians: Vec<f64>,
    p99s: Vec<f64>,
    lost: u64,
}

/// The result of a run at full speed.
#[derive(Clone, Copy)]
pub(crate) struct Flood {
    rate: f64,
    lost: u64,
}

/// The result of a paced run: the answers' times in microseconds.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    median: f64,
    p99: f64,
}

impl Figures {
    pub(crate) fn add(&mut self, flood: Flood, pace: Pace) {
        self.rates.push(flood.rate);
        self.lost += flood.lost;
        self.medians.push(pace.median);
        self.p99s.push(pace.p99);
    }

    pub(crate) fn rate(&self) -> f64 {
        quantile(&self.rates, 0.5)
    }

    pub(crate) fn p99(&self) -> f64 {
        quantile(&self.p99s, 0.5)
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let median = quantile(&self.medians, 0.5);
        write!(
            f,
            "{:>12.0}{median:>14.0}{:>14.0}{:>8}",
            self.rate(),
            self.p99(),
            self.lost
        )
    }
}

impl Target {
    pub(crate) fn new(label: &'static str, enter: &[&str], server: &str, questions: &Path) -> Self {
        Self {
            label,
            enter: enter.iter().map(|word| (*word).to_owned()).collect(),
            server: server.to_owned(),
            questions: questions.display().to_string(),
            paced: questions.display().to_string(),
        }
    }

    pub(crate) fn paced_by(self, questions: &Path) -> Self {
        let paced = questions.display().to_string();
        Self { paced, ..self }
    }

    /// Waits until the server answers a name.
    pub(crate) fn await_answer(&self, lab: &Lab, name: &str) -> anyhow::Result<()> {
        let at = format!("@{}", self.server);
        lab::wait_until(
            &format!("{} knows {name}", self.label),
            ANSWER_TIMEOUT,
            || {
                let asked = self.run(lab, &["dig", &at, name, "+short", "+time=1", "+tries=1"]);
                asked.is_ok_and(|answer| answer.trim().parse::<IpAddr>().is_ok())
            },
        )?;
        Ok(())
    }

    pub(crate) fn flood(&self, lab: &Lab) -> anyhow::Result<Flood> {
        let text = self.perf(lab, &self.questions, &["-c", "8", "-q", "200"])?;
        let after = |what: &str| {
            let line = text.lines().find_map(|line| line.trim().strip_prefix(what));
            let word = line.and_then(|line| line.split_whitespace().next());
            word.with_context(|| format!("no `{what}` in {text}"))
        };
        Ok(Flood {
            rate: after("Queries per second:")?.parse()?,
            lost: after("Queries lost:")?.parse()?,
        })
    }

    pub(crate) fn pace(&self, lab: &Lab) -> anyhow::Result<Pace> {
        let text = self.perf(lab, &self.paced, &["-c", "8", "-Q", PACED_QUERIES, "-v"])?;
        let mut took = Vec::new();
        for line in text
            .lines()
            .filter_map(|line| line.strip_prefix("> NOERROR"))
        {
            let seconds: f64 = line.split_whitespace().next_back().unwrap_or("").parse()?;
            took.push(seconds * 1e6);
        }
        anyhow::ensure!(!took.is_empty(), "{} answers nothing: {text}", self.label);
        Ok(Pace {
            median: quantile(&took, 0.5),
            p99: quantile(&took, 0.99),
        })
    }

    fn perf(&self, lab: &Lab, questions: &str, more: &[&str]) -> anyhow::Result<String> {
        let asked = [
            "dnsperf",
            "-s",
            &self.server,
            "-d",
            questions,
            "-l",
            RUN_SECONDS,
        ];
        let argv: Vec<&str> = asked.iter().chain(more).copied().collect();
        self.run(lab, &argv)
    }

    fn run(&self, lab: &Lab, argv: &[&str]) -> anyhow::Result<String> {
        let enter = self.enter.iter().map(String::as_str);
        let argv: Vec<&str> = enter.chain(argv.iter().copied()).collect();
        Ok(lab.run("node-1", &argv)?.stdout)
    }
}

pub(crate) fn write_questions(path: &Path, names: &[String]) -> anyhow::Result<()> {
    let lines: String = names.iter().map(|name| format!("{name} A\n")).collect();
    Ok(std::fs::write(path, lines)?)
}
