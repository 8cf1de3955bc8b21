//! Times and durations as Go reads and writes them.

/// Seconds since 1970 of Go's zero time, which JSON writes as `null` and protobuf as an empty message.
const ZERO_SECONDS: i64 = -62_135_596_800;
/// The last second of year 9999, beyond which RFC 3339 has no form.
const LAST_SECONDS: i64 = 253_402_300_799;

/// A moment: seconds since 1970 and nanoseconds within the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// The two forms that Kubernetes reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precision {
    Seconds,
    Micros,
}

impl Precision {
    fn layout(self) -> &'static str {
        match self {
            Precision::Seconds => "2006-01-02T15:04:05Z07:00",
            Precision::Micros => "2006-01-02T15:04:05.000000Z07:00",
        }
    }
}

impl Moment {
    pub(crate) const ZERO: Moment = Moment { seconds: ZERO_SECONDS, nanos: 0 };

    /// A moment that has a text form.
    pub(crate) fn from_parts(seconds: i64, nanos: i64) -> Option<Self> {
        let in_range = (ZERO_SECONDS..=LAST_SECONDS).contains(&seconds) && (0..1_000_000_000).contains(&nanos);
        in_range.then_some(Self { seconds, nanos: nanos as u32 })
    }

    /// Reads RFC 3339 as Go's `time.Parse` does; the error is worded as Go's.
    pub(crate) fn parse(text: &str, precision: Precision) -> Result<Self, String> {
        Reader { text, rest: text, layout: precision.layout() }.moment(precision)
    }

    /// Appends the UTC text.
    pub(crate) fn write(self, precision: Precision, out: &mut Vec<u8>) {
        let (days, second_of_day) = (self.seconds.div_euclid(86_400), self.seconds.rem_euclid(86_400) as u32);
        let (year, month, day) = civil(days);
        digits(year as u32, 4, out);
        for (separator, number) in [
            (b'-', month),
            (b'-', day),
            (b'T', second_of_day / 3600),
            (b':', second_of_day / 60 % 60),
            (b':', second_of_day % 60),
        ] {
            out.push(separator);
            digits(number, 2, out);
        }
        if precision == Precision::Micros {
            out.push(b'.');
            digits(self.nanos / 1000, 6, out);
        }
        out.push(b'Z');
    }

    pub(crate) fn text(self, precision: Precision) -> String {
        let mut out = Vec::with_capacity(27);
        self.write(precision, &mut out);
        String::from_utf8(out).expect("times are ASCII")
    }
}

fn digits(number: u32, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        out.push(b'0' + (number / 10_u32.pow(place) % 10) as u8);
    }
}

/// Year, month and day of a day since 1970 (Howard Hinnant's algorithm over eras of 400 years that begin in March).
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// The inverse of [`civil`].
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'static str,
}

impl Reader<'_> {
    fn moment(mut self, precision: Precision) -> Result<Moment, String> {
        let year = self.number("2006", 4)?;
        self.literal("-")?;
        let month = self.number("01", 2)?;
        self.in_range((1..=12).contains(&month), "month")?;
        self.literal("-")?;
        let day = self.number("02", 2)?;
        self.literal("T")?;
        let hour = self.number("15", 2)?;
        self.in_range(hour < 24, "hour")?;
        self.literal(":")?;
        let minute = self.number("04", 2)?;
        self.in_range(minute < 60, "minute")?;
        self.literal(":")?;
        let second = self.number("05", 2)?;
        self.in_range(second < 60, "second")?;
        let nanos = match precision {
            Precision::Seconds => self.any_fraction(),
            Precision::Micros => self.micros()?,
        };
        let offset = self.offset()?;
        if !self.rest.is_empty() {
            return Err(format!("parsing time {:?}: extra text: {:?}", self.text, self.rest));
        }
        self.in_range((1..=days_in(year, month)).contains(&day), "day")?;
        let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
        Ok(Moment { seconds, nanos })
    }

    fn misfit(&self, wanted: &str) -> String {
        format!("parsing time {:?} as {:?}: cannot parse {:?} as {wanted:?}", self.text, self.layout, self.rest)
    }

    fn in_range(&self, fits: bool, what: &str) -> Result<(), String> {
        if fits { Ok(()) } else { Err(format!("parsing time {:?}: {what} out of range", self.text)) }
    }

    fn number(&mut self, wanted: &str, width: usize) -> Result<i64, String> {
        let found = self.rest.get(..width).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        let Some(found) = found else { return Err(self.misfit(wanted)) };
        self.rest = &self.rest[width..];
        Ok(found.bytes().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    }

    fn literal(&mut self, wanted: &str) -> Result<(), String> {
        self.rest = self.rest.strip_prefix(wanted).ok_or_else(|| self.misfit(wanted))?;
        Ok(())
    }

    /// A fraction of any length after the seconds, which Go takes though its layout has none.
    fn any_fraction(&mut self) -> u32 {
        let Some(after) = self.rest.strip_prefix(['.', ',']) else { return 0 };
        let count = after.bytes().take_while(u8::is_ascii_digit).count();
        if count == 0 {
            return 0;
        }
        let fraction = after.bytes().take(count.min(9)).fold(0, |number, digit| number * 10 + u32::from(digit - b'0'));
        self.rest = &after[count..];
        fraction * 10_u32.pow(9 - count.min(9) as u32)
    }

    fn micros(&mut self) -> Result<u32, String> {
        let fraction = self.rest.strip_prefix('.').and_then(|after| after.get(..6));
        let Some(fraction) = fraction.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit())) else {
            return Err(self.misfit(".000000"));
        };
        self.rest = &self.rest[7..];
        Ok(fraction.bytes().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')) * 1000)
    }

    /// Seconds east of UTC.
    fn offset(&mut self) -> Result<i64, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let part =
            |from: usize| self.rest.get(from..from + 2).and_then(|digits| digits.parse::<u8>().ok()).map(i64::from);
        let sign = match self.rest.as_bytes() {
            [b'+', ..] => 1,
            [b'-', ..] => -1,
            _ => return Err(self.misfit("Z07:00")),
        };
        let (Some(hours), Some(minutes), Some(":")) = (part(1), part(4), self.rest.get(3..4)) else {
            return Err(self.misfit("Z07:00"));
        };
        self.in_range(hours <= 24, "time zone offset hour")?;
        self.in_range(minutes < 60, "time zone offset minute")?;
        self.rest = &self.rest[6..];
        Ok(sign * (hours * 3600 + minutes * 60))
    }
}

/// Reads a Go duration such as `1h15m30.5s`, in nanoseconds.
///
/// # Errors
/// What is wrong with it, worded as Go words it.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let (nanos, after) = duration_part(text, rest)?;
        total = total.saturating_add(nanos);
        rest = after;
    }
    let signed = if negative { -total } else { total };
    i64::try_from(signed).map_err(|_| invalid())
}

/// One number with its unit.
fn duration_part<'a>(text: &str, rest: &'a str) -> Result<(i128, &'a str), String> {
    let number_len = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, after) = rest.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
        return Err(format!("time: invalid duration {text:?}"));
    }
    let unit_len = after.bytes().take_while(|byte| *byte != b'.' && !byte.is_ascii_digit()).count();
    let (unit, after) = after.split_at(unit_len);
    let scale: i128 = match unit {
        "" => return Err(format!("time: missing unit in duration {text:?}")),
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
    };
    let decimal = |digits: &str| digits.bytes().fold(0_i128, |number, digit| number * 10 + i128::from(digit - b'0'));
    let fraction = &fraction[..fraction.len().min(18)];
    let part = decimal(fraction) * scale / 10_i128.pow(fraction.len() as u32);
    Ok((decimal(whole) * scale + part, after))
}

/// The text of a duration as Go's `Duration.String`.
pub fn duration_text(nanos: i64) -> String {
    let magnitude = nanos.unsigned_abs();
    let sign = if nanos < 0 { "-" } else { "" };
    let fractional = |value: u64, unit: u64| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        format!("{whole}.{}", format!("{rest:0width$}").trim_end_matches('0'))
    };
    match magnitude {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{magnitude}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fractional(magnitude, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fractional(magnitude, 1_000_000)),
        _ => {
            let minutes = magnitude / 60_000_000_000;
            let seconds = fractional(magnitude % 60_000_000_000, 1_000_000_000);
            match minutes {
                0 => format!("{sign}{seconds}s"),
                1..60 => format!("{sign}{minutes}m{seconds}s"),
                _ => format!("{sign}{}h{}m{seconds}s", minutes / 60, minutes % 60),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_brought_to_utc() {
        let check = |text: &str, precision: Precision, expected: Result<&str, &str>| {
            let found = Moment::parse(text, precision).map(|moment| moment.text(precision));
            assert_eq!(found.as_deref().map_err(String::as_str), expected, "{text}");
        };
        let seconds = Precision::Seconds;
        check("2024-02-29T12:34:56Z", seconds, Ok("2024-02-29T12:34:56Z"));
        check("2024-01-01T00:30:00.999+01:00", seconds, Ok("2023-12-31T23:30:00Z"));
        check("1999-12-31T23:30:00-00:45", seconds, Ok("2000-01-01T00:15:00Z"));
        check("0001-01-01T00:00:00Z", seconds, Ok("0001-01-01T00:00:00Z"));
        check("9999-12-31T23:59:59Z", seconds, Ok("9999-12-31T23:59:59Z"));
        check(
            "abc",
            seconds,
            Err(r#"parsing time "abc" as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006""#),
        );
        check(
            "2024-01-01 00:00:00Z",
            seconds,
            Err(
                r#"parsing time "2024-01-01 00:00:00Z" as "2006-01-02T15:04:05Z07:00": cannot parse " 00:00:00Z" as "T""#,
            ),
        );
        check("2023-02-29T00:00:00Z", seconds, Err(r#"parsing time "2023-02-29T00:00:00Z": day out of range"#));
        check("2023-13-01T00:00:00Z", seconds, Err(r#"parsing time "2023-13-01T00:00:00Z": month out of range"#));
        check("2023-12-01T00:00:00Zx", seconds, Err(r#"parsing time "2023-12-01T00:00:00Zx": extra text: "x""#));
        check("2023-12-01T00:00:00.123456Z", Precision::Micros, Ok("2023-12-01T00:00:00.123456Z"));
        check(
            "2023-12-01T00:00:00Z",
            Precision::Micros,
            Err(
                r#"parsing time "2023-12-01T00:00:00Z" as "2006-01-02T15:04:05.000000Z07:00": cannot parse "Z" as ".000000""#,
            ),
        );
    }

    #[test]
    fn days_and_dates_are_inverse() {
        for days in (-719_162..2_932_896).step_by(977) {
            let (year, month, day) = civil(days);
            assert_eq!(days_since_1970(year, i64::from(month), i64::from(day)), days);
        }
        assert_eq!(Moment::parse("0001-01-01T00:00:00Z", Precision::Seconds), Ok(Moment::ZERO));
    }

    #[test]
    fn durations_read_and_print_as_in_go() {
        for (text, nanos, printed) in [
            ("0", 0, "0s"),
            ("1h", 3_600_000_000_000, "1h0m0s"),
            ("90s", 90_000_000_000, "1m30s"),
            ("1.5s", 1_500_000_000, "1.5s"),
            ("-2m3.05s", -123_050_000_000, "-2m3.05s"),
            ("1500us", 1_500_000, "1.5ms"),
            ("12ns", 12, "12ns"),
            ("1h15m30.918s", 4_530_918_000_000, "1h15m30.918s"),
        ] {
            assert_eq!(parse_duration(text), Ok(nanos), "{text}");
            assert_eq!(duration_text(nanos), printed);
        }
        for (text, error) in [
            ("", "time: invalid duration \"\""),
            ("1", "time: missing unit in duration \"1\""),
            ("1x", "time: unknown unit \"x\" in duration \"1x\""),
            (".s", "time: invalid duration \".s\""),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()));
        }
    }
}
