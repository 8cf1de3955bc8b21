//! Time as text.

use alloc::format;
use alloc::string::String;

/// Year, month and day of a day counted from 1970-01-01 (Howard Hinnant's algorithm over 400-year eras).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Appends nanoseconds since 1970 as RFC 3339 in UTC, without trailing zeros of the fraction as Go writes it.
pub fn push_rfc3339(out: &mut String, nanoseconds: i64) {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    out.push_str(&format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"));
    if fraction != 0 {
        out.push_str(&format!(".{fraction:09}"));
        out.truncate(out.trim_end_matches('0').len());
    }
    out.push('Z');
}

/// Nanoseconds since 1970 as `20060102-150405`, the end of a rotated log file's name.
pub fn compact(nanoseconds: i64) -> String {
    let mut text = String::new();
    push_rfc3339(&mut text, nanoseconds - nanoseconds.rem_euclid(1_000_000_000));
    text.replace(['-', ':', 'Z'], "").replace('T', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(nanoseconds: i64, expected: &str) {
        let mut text = String::new();
        push_rfc3339(&mut text, nanoseconds);
        assert_eq!(text, expected);
    }

    #[test]
    fn writes_times_as_go_does() {
        check(0, "1970-01-01T00:00:00Z");
        check(1_475_713_029_669_794_202, "2016-10-06T00:17:09.669794202Z");
        check(1_709_210_096_500_000_000, "2024-02-29T12:34:56.5Z");
        check(951_782_400_000_000_001, "2000-02-29T00:00:00.000000001Z");
        check(4_107_542_399_000_000_000, "2100-02-28T23:59:59Z");
        assert_eq!(compact(1_475_713_029_669_794_202), "20161006-001709");
    }
}
