//! Resource amounts: exact decimal arithmetic and upstream's canonical form.
//!
//! Upstream: `k8s.io/apimachinery/pkg/api/resource`.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Mul, Sub};

/// How a quantity was written, and so how it is written again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    #[default]
    DecimalSi,
}

/// An exact amount: `value × 10^scale`. Nothing is finer than nano.
///
/// Two quantities are equal when their amounts are, however they are written.
#[derive(Clone, Copy, Default)]
pub struct Quantity {
    value: i128,
    /// At least [`NANO`].
    scale: i32,
    format: Format,
}

/// A text is not a quantity; the wording is upstream's, which clients print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// The finest scale: a finer amount is rounded away from zero, so that whoever asks for some gets some.
const NANO: i32 = -9;
/// More digits than this do not fit the mantissa. (Upstream's grows without limit; no real amount comes near.)
const DIGITS_MAX: usize = 38;
/// The most digits that upstream reads on its short way, on which canonical texts are kept as they are.
const SHORT_DIGITS_MAX: i32 = 18;

const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, i32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

impl Quantity {
    /// Nothing.
    pub const ZERO: Quantity = Quantity { value: 0, scale: 0, format: Format::DecimalSi };

    /// A whole number.
    pub const fn new(value: i64, format: Format) -> Quantity {
        Quantity { value: value as i128, scale: 0, format }
    }

    /// Thousandths, as CPU is counted in.
    pub const fn from_milli(value: i64) -> Quantity {
        Quantity { value: value as i128, scale: -3, format: Format::DecimalSi }
    }

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        let parts = Parts::split(text)?;
        let (base, exponent, format) = suffix(parts.suffix)?;
        parts.amount(base, exponent, format)
    }

    /// How the quantity is written.
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Whether there is nothing.
    pub const fn is_zero(&self) -> bool {
        self.value == 0
    }

    /// -1, 0 or 1.
    pub const fn sign(&self) -> i32 {
        self.value.signum() as i32
    }

    /// The amount in units, rounded away from zero; saturates.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The amount in thousandths, rounded away from zero; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// The amount in units of `10^scale`, rounded away from zero; saturates.
    pub fn scaled(&self, scale: i32) -> i64 {
        let value = match scaled(self.value, self.scale, scale) {
            Some((value, _)) => value,
            None if self.value < 0 => i128::MIN,
            None => i128::MAX,
        };
        i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
    }

    /// The amount as the nearest float.
    pub fn as_f64(&self) -> f64 {
        self.value as f64 * 10f64.powi(self.scale)
    }

    fn canonical(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return out.write_str("0");
        }
        if let (Format::BinarySi, Some((whole, true))) = (self.format, scaled(self.value, self.scale, 0))
            && whole.unsigned_abs() >= 1024
        {
            let (_, times) = without_factors(whole, 1024);
            // There is no suffix beyond Ei; sums may go beyond, parsing does not.
            let times = times.min(BINARY_SUFFIXES.len());
            let suffix = times.checked_sub(1).map_or("", |at| BINARY_SUFFIXES[at].0);
            return write!(out, "{}{suffix}", whole / (1 << (10 * times)));
        }
        self.canonical_decimal(out)
    }

    fn canonical_decimal(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, times) = without_factors(self.value, 10);
        let mut exponent = self.scale.saturating_add(times as i32);
        while exponent % 3 != 0 {
            value *= 10;
            exponent -= 1;
        }
        let suffix = DECIMAL_SUFFIXES.iter().find(|(_, power)| *power == exponent);
        match (self.format, suffix) {
            (_, Some((_, 0))) => write!(out, "{value}"),
            (Format::DecimalExponent, _) | (_, None) => write!(out, "{value}e{exponent}"),
            (_, Some((suffix, _))) => write!(out, "{value}{suffix}"),
        }
    }
}

/// The text as the API server gives it back: canonical, except where upstream keeps what it was given (`1.500`). Space
/// around it is dropped, as upstream's JSON decoder does.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    let text = text.trim();
    let parts = Parts::split(text)?;
    let (base, exponent, format) = suffix(parts.suffix)?;
    let quantity = parts.amount(base, exponent, format)?;
    Ok(if parts.is_kept(base, exponent) { text.to_owned() } else { quantity.to_string() })
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros; `0` when none are left.
    number: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (number, rest) = digits(unsigned.trim_start_matches('0'));
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), digits);
        let letters_end = suffix.find(|letter| !"eEinumkKMGTP".contains(letter)).unwrap_or(suffix.len());
        let exponent = &suffix[letters_end..];
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        // No digits at all read as zero, as upstream has it: `Mi` is nothing.
        let number = if number.is_empty() { "0" } else { number };
        Ok(Parts { negative: text.starts_with('-'), number, fraction, suffix })
    }

    fn amount(&self, base: u32, exponent: i32, format: Format) -> Result<Quantity, QuantityError> {
        let digits = format!("{}{}", self.number, self.fraction);
        let digits = digits.trim_start_matches('0');
        let kept = &digits[..digits.len().min(DIGITS_MAX)];
        if kept.len() < digits.len() && self.fraction.len() < digits.len() - kept.len() {
            return Err(QuantityError::Numeric);
        }
        let cut = digits.len() - kept.len();
        let lost = digits[kept.len()..].bytes().any(|digit| digit != b'0');
        let mut value = if kept.is_empty() { 0 } else { kept.parse::<i128>().map_err(|_| QuantityError::Numeric)? };
        let mut scale = cut as i32 - self.fraction.len() as i32;
        if base == 2 {
            value =
                value.checked_shl(exponent as u32).filter(|shifted| shifted >> exponent == value).unwrap_or(i128::MAX);
        } else {
            scale = scale.saturating_add(exponent);
        }
        if lost && scale > NANO {
            return Err(QuantityError::Numeric);
        }
        let mut quantity = Quantity { value, scale, format };
        quantity.round_to_nano(lost);
        if format == Format::BinarySi {
            quantity.cap_binary();
        }
        if self.negative {
            quantity.value = -quantity.value;
        }
        Ok(quantity)
    }

    /// Whether upstream remembers the text itself, taking it for canonical.
    fn is_kept(&self, base: u32, exponent: i32) -> bool {
        let digits = self.number.len() as i32 + self.fraction.len() as i32;
        if base == 2 {
            let precision = 15 - self.number.len() as i32 - exponent * 3 / 10 - 1;
            let odd = self.number.parse::<i64>().is_ok_and(|value| value & 7 != 0);
            return self.fraction.is_empty() && precision >= 0 && odd;
        }
        let scale = exponent.saturating_sub(self.fraction.len() as i32);
        let ends_in_zeros = format!("{}{}", self.number, self.fraction).ends_with("000");
        digits <= SHORT_DIGITS_MAX && scale >= NANO && scale % 3 == 0 && !ends_in_zeros && !self.number.starts_with('0')
    }
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

/// The base, exponent and format that a suffix stands for.
fn suffix(suffix: &str) -> Result<(u32, i32, Format), QuantityError> {
    let power_in = |table: &[(&str, i32)]| table.iter().find(|(name, _)| *name == suffix).map(|(_, power)| *power);
    if let Some(power) = power_in(&DECIMAL_SUFFIXES) {
        return Ok((10, power, Format::DecimalSi));
    }
    if let Some(power) = power_in(&BINARY_SUFFIXES) {
        return Ok((2, power, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let exponent: i32 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((10, exponent, Format::DecimalExponent))
}

impl Quantity {
    fn round_to_nano(&mut self, lost: bool) {
        if self.value == 0 {
            self.scale = 0;
        } else if self.scale < NANO {
            let (value, exact) = scaled(self.value, self.scale, NANO).unwrap_or((1, false));
            self.value = if exact && lost { value + 1 } else { value };
            self.scale = NANO;
        }
    }

    /// Binary amounts end at the largest `int64`; below one they are written as decimals.
    fn cap_binary(&mut self) {
        if scaled(self.value, self.scale, 0).is_none_or(|(whole, _)| whole > i64::MAX.into()) {
            (self.value, self.scale) = (i64::MAX.into(), 0);
        }
        if self.value > 0 && *self < Quantity::new(1, Format::DecimalSi) {
            self.format = Format::DecimalSi;
        }
    }
}

/// `value × 10^from` in units of `10^to`, rounded away from zero, and whether that is exact; `None` on overflow.
fn scaled(value: i128, from: i32, to: i32) -> Option<(i128, bool)> {
    let difference = from.saturating_sub(to);
    let power = |exponent: u32| (exponent <= DIGITS_MAX as u32).then(|| 10i128.pow(exponent));
    if value == 0 {
        return Some((0, true));
    }
    if difference >= 0 {
        return Some((value.checked_mul(power(difference.unsigned_abs())?)?, true));
    }
    match power(difference.unsigned_abs()) {
        None => Some((value.signum(), false)),
        Some(divisor) => match (value / divisor, value % divisor) {
            (quotient, 0) => Some((quotient, true)),
            (quotient, _) => Some((quotient + value.signum(), false)),
        },
    }
}

/// Both amounts in units of the finer scale, saturated.
fn aligned(left: Quantity, right: Quantity) -> (i128, i128, i32) {
    let scale = if left.value == 0 {
        right.scale
    } else if right.value == 0 {
        left.scale
    } else {
        left.scale.min(right.scale)
    };
    let at = |quantity: Quantity| match scaled(quantity.value, quantity.scale, scale) {
        Some((value, _)) => value,
        None => {
            if quantity.value < 0 {
                i128::MIN + 1
            } else {
                i128::MAX
            }
        }
    };
    (at(left), at(right), scale)
}

/// The value without its factors `factor`, and how many there were.
fn without_factors(mut value: i128, factor: i128) -> (i128, usize) {
    let mut times = 0;
    while value != 0 && value % factor == 0 {
        value /= factor;
        times += 1;
    }
    (value, times)
}

fn sum(left: Quantity, right: Quantity) -> Quantity {
    let format = if left.is_zero() { right.format } else { left.format };
    let (left, right, scale) = aligned(left, right);
    Quantity { value: left.saturating_add(right), scale, format }
}

impl Add for Quantity {
    type Output = Quantity;
    /// The sum; saturates. A zero takes the other's way of writing.
    fn add(self, other: Quantity) -> Quantity {
        sum(self, other)
    }
}

impl Sub for Quantity {
    type Output = Quantity;
    /// The difference; saturates. A zero takes the other's way of writing.
    fn sub(self, other: Quantity) -> Quantity {
        sum(self, Quantity { value: other.value.saturating_neg(), ..other })
    }
}

impl Mul<i64> for Quantity {
    type Output = Quantity;
    /// The product; saturates.
    fn mul(self, factor: i64) -> Quantity {
        Quantity { value: self.value.saturating_mul(factor.into()), ..self }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (left, right, _) = aligned(*self, *other);
        left.cmp(&right)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.canonical(formatter)
    }
}

impl fmt::Debug for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.canonical(formatter)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Quantity::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_canonical(input: &str, expected: Result<&str, QuantityError>) {
        assert_eq!(canonical(input), expected.map(str::to_owned), "{input}");
    }

    #[test]
    fn canonicalises_as_upstream() {
        for (input, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0Mi", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.5", "1500m"),
            ("0.001", "1m"),
            ("0.0001", "100u"),
            ("0.3Gi", "322122547200m"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1025Ki", "1025Ki"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("128974848", "128974848"),
            ("129e6", "129e6"),
            ("129M", "129M"),
            ("1000000", "1M"),
            ("1e3", "1e3"),
            ("1000e3", "1e6"),
            ("1E", "1E"),
            ("1E3", "1E3"),
            ("10E3", "10E3"),
            ("1e-3", "1e-3"),
            ("-1", "-1"),
            ("-1.5", "-1500m"),
            ("-1024Ki", "-1Mi"),
            ("1.", "1."),
            ("0.9n", "1n"),
            ("-0.9n", "-1n"),
            ("0.00000000001", "1n"),
            ("8Ei", "9223372036854775807"),
            ("18446744073709551616", "18446744073709551616"),
            ("1000E", "1e21"),
            ("1.2345", "1234500u"),
            ("Mi", "0"),
            (" 1 ", "1"),
            // What upstream takes for canonical, it keeps.
            ("1.500", "1.500"),
            ("+5", "+5"),
            ("05", "05"),
            ("+5000", "5k"),
        ] {
            check_canonical(input, Ok(expected));
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        use QuantityError::{Format, Numeric, Suffix};
        for (input, expected) in [
            ("", Format),
            ("1.1.M", Format),
            ("1+1.0M", Format),
            ("0.1mi", Suffix),
            ("1i", Suffix),
            ("1bi", Format),
            ("5Kim", Suffix),
            ("abc", Format),
            ("1ee3", Suffix),
            ("1e9999999999", Suffix),
            ("12 Mi", Format),
            ("-3.01e-", Suffix),
            (&"9".repeat(39), Numeric),
        ] {
            check_canonical(input, Err(expected));
        }
    }

    #[test]
    fn calculates_exactly() {
        let quantity = |text: &str| Quantity::parse(text).expect("a quantity");
        for (left, right, sum) in [
            ("100m", "0.9", "1"),
            ("1Gi", "512Mi", "1536Mi"),
            ("0", "1Gi", "1Gi"),
            ("1Gi", "1", "1073741825"),
            ("1n", "1E", "1000000000000000000000000001n"),
            ("1500m", "-1500m", "0"),
        ] {
            assert_eq!((quantity(left) + quantity(right)).to_string(), sum, "{left} + {right}");
            assert_eq!(quantity(sum) - quantity(right), quantity(left), "{sum} - {right}");
        }
        assert!(quantity("999m") < quantity("1") && quantity("1Ki") > quantity("1k"));
        assert_eq!(quantity("1000m"), quantity("1"));
        assert_eq!((quantity("1m").value(), quantity("1001m").value(), quantity("-1m").value()), (1, 2, -1));
        assert_eq!((quantity("100u").milli_value(), quantity("2").milli_value()), (1, 2000));
        assert_eq!((quantity("1e30").value(), quantity("-1e30").value()), (i64::MAX, i64::MIN));
        assert_eq!(quantity("1e2147483647").value(), i64::MAX);
        assert_eq!((quantity("250m") * 4).to_string(), "1");
    }

    #[test]
    fn formats_survive_a_round_trip() {
        for text in ["1", "15m", "3Mi", "7e6", "1536Mi", "322122547200m", "1e21"] {
            assert_eq!(Quantity::parse(text).expect("a quantity").to_string(), text);
        }
    }
}
