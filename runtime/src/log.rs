//! The daemons' log: one format, and one variable for its filter.

use std::io::IsTerminal;

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, util::SubscriberInitExt};

/// The variable with the filter, as `RUST_LOG` of tracing-subscriber's `EnvFilter`.
const FILTER_VARIABLE: &str = "CONTIV_LOG";
/// It is read where [`FILTER_VARIABLE`] isn't set.
const OLD_FILTER_VARIABLE: &str = "RUST_LOG";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    /// One object a line
    Json,
}

/// Logs to stderr from here on. `default` is the filter where no variable sets one.
pub fn init(format: LogFormat, default: &str) {
    let variable = |name| std::env::var(name).ok();
    let filter = filter(
        &[variable(FILTER_VARIABLE), variable(OLD_FILTER_VARIABLE)],
        default,
    );
    // Colour codes are for people: in a file or a journal they are in the way.
    let colours = std::io::stderr().is_terminal();
    subscriber(format, filter, colours, std::io::stderr).init();
}

/// The filter of the first variable that is set; the default, if none is or if it can't be read.
fn filter(variables: &[Option<String>], default: &str) -> EnvFilter {
    let set = variables.iter().flatten().next();
    set.and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default))
}

fn subscriber<W>(
    format: LogFormat,
    filter: EnvFilter,
    colours: bool,
    writer: W,
) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colours);
    match format {
        LogFormat::Text => Box::new(log.finish()),
        LogFormat::Json => Box::new(log.json().flatten_event(true).finish()),
    }
}

/// The longest text of a caller in a line of the log, in characters.
const MAX_EXCERPT: usize = 1_000;

/// The start of a caller's text, for the log: neither its length nor its control characters make more
/// than a part of one line.
pub fn excerpt(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut letters = text.chars().map(shown);
    let mut start: String = letters.by_ref().take(MAX_EXCERPT).collect();
    if letters.next().is_some() {
        start.push('…');
    }
    start
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::lock;

    #[derive(Debug, Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A line of the log.
    fn logged(format: LogFormat, colours: bool) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = subscriber(format, EnvFilter::new("info"), colours, move || {
            writer.clone()
        });
        tracing::subscriber::with_default(log, || {
            tracing::warn!(node = "n1", "the bus is away");
            tracing::debug!("filtered out");
        });
        let bytes = lock(&lines.0).clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn log_has_colours_only_where_they_are_wanted() {
        assert!(logged(LogFormat::Text, true).contains('\u{1b}'));
        for format in [LogFormat::Text, LogFormat::Json] {
            let line = logged(format, false);
            assert!(!line.contains('\u{1b}'), "{line:?}");
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert!(line.contains("the bus is away"), "{line:?}");
        }
    }

    #[test]
    fn excerpt_is_a_part_of_one_line() {
        assert_eq!(excerpt("a call"), "a call");
        assert_eq!(excerpt("a\nb\u{1b}[2J"), "a\u{fffd}b\u{fffd}[2J");
        assert_eq!(excerpt(&"x".repeat(1_000_000)).chars().count(), 1_001);
    }

    #[test]
    fn json_log_has_its_fields_beside_the_message() {
        let line = logged(LogFormat::Json, false);
        assert!(
            line.starts_with('{') && line.contains(r#""node":"n1""#),
            "{line:?}"
        );
    }

    #[test]
    fn filter_comes_from_the_first_variable_that_is_set() {
        let of = |variables: [Option<&str>; 2]| {
            filter(&variables.map(|it| it.map(str::to_owned)), "info").to_string()
        };
        assert_eq!(of([Some("debug"), Some("error")]), "debug");
        assert_eq!(of([None, Some("error")]), "error");
        assert_eq!(of([None, None]), "info");
        assert_eq!(of([Some("node=loud"), Some("error")]), "info");
    }
}
