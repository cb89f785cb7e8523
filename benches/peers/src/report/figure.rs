//! Numbers as people read them.

use super::section::Unit;

/// `value` with three significant digits and the prefix that suits it.
pub fn human(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Nanoseconds => scaled(value, 1e3, &["ns", "us", "ms", "s"]),
        Unit::PerSecond => scaled(value / 1e3, 1e3, &["k/s", "M/s", "G/s"]),
        Unit::Bytes => scaled(value, 1024.0, &["B", "KiB", "MiB", "GiB"]),
        Unit::Percent => format!("{} %", significant(value)),
    }
}

/// `value` in the largest of `units`, each `step` times the one before, in which it is at least 1.
fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    format!("{} {}", significant(value), units[unit])
}

/// Three significant digits, or as many as there are before the point.
fn significant(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        assert_eq!(human(2.104, Unit::Nanoseconds), "2.10 ns");
        assert_eq!(human(48.26, Unit::Nanoseconds), "48.3 ns");
        assert_eq!(human(12_100_000.0, Unit::Nanoseconds), "12.1 ms");
        assert_eq!(human(165_000_000.0, Unit::PerSecond), "165 M/s");
        assert_eq!(human(1_080_000.0, Unit::Bytes), "1.03 MiB");
        assert_eq!(human(0.5, Unit::Percent), "0.50 %");
    }
}
