//! The costs of a cluster: `make bench`, or one part with `cargo bench -p chaos-tests --bench cluster --
//! addresses|attach|control|fan-out|memory|path`. The compared variants take turns within each round, and
//! medians are compared, so a drift of the machine's speed has no influence.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod addresses;
mod attach;
mod control;
mod fan_out;
mod memory;
mod path;
mod probe;

use chaos_tests::figures::{arguments, machine, quantile};
use chaos_tests::traffic;

type Part = (&'static str, fn() -> anyhow::Result<()>);

const BENCH_PARTS: [Part; 6] = [
    ("addresses", addresses::measure),
    ("attach", attach::measure),
    ("control", control::measure),
    ("fan-out", fan_out::measure),
    ("memory", memory::measure),
    ("path", path::measure),
];

fn main() -> anyhow::Result<()> {
    let arguments = arguments();
    if let Some(done) = traffic::run(&arguments) {
        return Ok(done?);
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["probe", rest @ ..] = &words[..] {
        return probe::run(rest);
    }
    println!("{}", machine());
    for (name, measure) in BENCH_PARTS {
        if words.is_empty() || words.contains(&name) {
            println!("\n# {name}");
            measure()?;
        }
    }
    Ok(())
}

/// The path of this program, which also runs inside a lab.
fn me() -> anyhow::Result<String> {
    Ok(std::env::current_exe()?.display().to_string())
}

fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}
