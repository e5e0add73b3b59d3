//! The daemons' metrics, as Prometheus reads them.

use lab::{Error, Lab};

/// The port of netplugin's metrics.
pub const NETPLUGIN_PORT: &str = "9466";
/// The port of netmaster's metrics.
pub const NETMASTER_PORT: &str = "9467";

/// The sum of a metric's series whose labels contain `labels`.
pub fn metric(lab: &Lab, host: &str, port: &str, name: &str, labels: &str) -> Result<f64, Error> {
    let get = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
    );
    let text = lab.run(host, &["bash", "-c", &get])?.stdout;
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let (found, has) = series.split_once('{').unwrap_or((series, ""));
        (found == name && has.contains(labels)).then(|| value.parse::<f64>().ok())?
    };
    Ok(text.lines().filter_map(of).sum())
}
