//! Shared parts of the benchmarks: the machine's description, arguments and quantiles.

/// The machine's processor, cores and kernel, for the head of a table.
pub fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |it| {
        it.trim_start_matches([' ', '\t', ':'])
    });
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{model}, {cores} cores, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// The benchmark's arguments without those that cargo adds.
pub fn arguments() -> Vec<String> {
    let all = std::env::args().skip(1);
    all.filter(|it| it != "--bench").collect()
}

/// The quantile of the figures (0.5: the median); 0 if there are none.
pub fn quantile(figures: &[f64], quantile: f64) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (sorted.len() as f64 * quantile) as usize;
    sorted.get(at.min(last)).copied().unwrap_or_default()
}
