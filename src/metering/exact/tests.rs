//! Tests of exact numbers: what is read, counted and rounded.

use proptest::prelude::*;

use super::*;

fn exact(text: &str) -> Exact {
    text.parse().unwrap()
}

#[test]
fn numbers_are_read_as_people_write_them_and_written_back_in_lowest_terms() {
    let same =
        ["0", "1", "-1", "0.25", "-12.5", "1/3600", "-1/3", "1234567890123456789012345678901234567890"];
    for text in same {
        assert_eq!(exact(text).to_string(), text);
    }
    let read = [
        ("1.500", "1.5"),
        ("+7", "7"),
        ("007", "7"),
        ("-0", "0"),
        ("-0.0", "0"),
        (".5", "0.5"),
        ("-.5", "-0.5"),
        ("5.", "5"),
        ("1e3", "1000"),
        ("1E+3", "1000"),
        ("1.5e-3", "0.0015"),
        ("-2e-1", "-0.2"),
        (" 1 / 4 ", "0.25"),
        ("2.5/3", "5/6"),
        ("1/-3600", "-1/3600"),
        ("1/0.5", "2"),
        ("10/4", "2.5"),
        ("7/14", "0.5"),
        ("1/1073741824", "0.000000000931322574615478515625"),
    ];
    for (text, written) in read {
        assert_eq!(exact(text).to_string(), written, "{text}");
    }
    assert_eq!(format!("{:?}", exact("1/3")), "1/3");
}

#[test]
fn what_is_no_number_is_refused_in_words() {
    let bad = [
        "",
        " ",
        ".",
        "-",
        "+",
        "--1",
        "+-1",
        "1e",
        "e3",
        "1e1000",
        "1e-1000",
        "1e99999999999",
        "1e1.5",
        "0x10",
        "1_000",
        ",5",
        "1,5,7",
        "NaN",
        "inf",
        "1/",
        "/1",
        "1/2/3",
        "1 000",
        "½",
    ];
    for text in bad {
        let message = format!("`{text}` is not a number such as 12, 0.25, 1e-3 or 1/3600");
        assert_eq!(text.parse::<Exact>(), Err(message), "{text}");
    }
    assert_eq!("3/0.0".parse::<Exact>(), Err("`3/0.0` divides by zero".to_owned()));
    let long = "1".repeat(101);
    assert_eq!(long.parse::<Exact>(), Err("a number may have at most 100 characters".to_owned()));
    assert_eq!(exact(&"1".repeat(100)).to_string(), "1".repeat(100));
    assert_eq!(exact("1e999").to_string().len(), 1000);
}

#[test]
fn rounding_in_each_mode() {
    let cases = [
        // exact, half_even, half_up, down, up
        ("0", [0, 0, 0, 0]),
        ("0.004999", [0, 0, 0, 1]),
        ("0.005", [0, 1, 0, 1]),
        ("0.005000000000001", [1, 1, 0, 1]),
        ("0.015", [2, 2, 1, 2]),
        ("0.025", [2, 3, 2, 3]),
        ("1.115", [112, 112, 111, 112]),
        ("1.125", [112, 113, 112, 113]),
        ("1/3", [33, 33, 33, 34]),
        ("2/3", [67, 67, 66, 67]),
        ("7.01", [701, 701, 701, 701]),
        ("-0.005", [0, 0, -1, 0]),
        ("-0.015", [-2, -1, -2, -1]),
    ];
    let modes = [Rounding::HalfEven, Rounding::HalfUp, Rounding::Down, Rounding::Up];
    for (number, cents) in cases {
        for (mode, cents) in modes.into_iter().zip(cents) {
            assert_eq!(exact(number).round(2, mode), Some(cents), "{number} {mode:?}");
        }
    }
    for mode in modes {
        assert_eq!(mode.name().parse(), Ok(mode));
        assert!(Rounding::NAMES.contains(&mode.name()));
    }
    let message = "`up_down` is no rounding; known: half_even, half_up, down, up";
    assert_eq!("up_down".parse::<Rounding>(), Err(message.to_owned()));
    assert_eq!(Rounding::default(), Rounding::HalfEven);
}

#[test]
fn parts_are_cut_towards_minus_infinity() {
    assert_eq!(exact("10/3").floor_to(12).to_string(), "3.333333333333");
    assert_eq!(exact("-10/3").floor_to(12).to_string(), "-3.333333333334");
    assert_eq!(exact("2.5").floor_to(12), exact("2.5"));
    assert_eq!(exact("2.5").floor_to(0), exact("2"));
    assert_eq!(exact("2/3").approximate(4), "0.6667");
}

#[test]
fn arithmetic_is_exact() {
    let third = exact("1/3");
    assert_eq!(third.clone() + third.clone() + third.clone(), Exact::one());
    assert_eq!(third.clone() * exact("3"), Exact::one());
    assert_eq!(exact("0.1") + exact("0.2"), exact("0.3"));
    assert_eq!(exact("1") - third.clone(), exact("2/3"));
    assert_eq!(-third.clone(), exact("-1/3"));
    assert_eq!([exact("0.1"), exact("1/6")].into_iter().sum::<Exact>(), exact("4/15"));
    let mut number = exact("5");
    number -= exact("7");
    assert!(number.is_negative() && !number.is_zero());
    number += exact("2");
    assert!(number.is_zero() && !number.is_negative());
    assert_eq!(Exact::ratio(6, -8), Some(exact("-0.75")));
    assert_eq!(Exact::ratio(1, 0), None);
    assert_eq!(exact("1").checked_div(&exact("3600")), Some(exact("1/3600")));
    assert_eq!(exact("1").checked_div(&Exact::zero()), None);
    assert!(exact("1/3") < exact("0.3333333333333333333333333333333334"));
}

#[test]
fn decimals_go_in_exactly_and_come_out_if_they_fit() {
    let largest = "9999999999999999999999999999";
    assert_eq!(exact(largest).to_decimal().unwrap().to_string(), largest);
    assert_eq!(Exact::from(exact(largest).to_decimal().unwrap()), exact(largest));
    let small: Decimal = "-0.000000000001".parse().unwrap();
    assert_eq!(Exact::from(small), exact("-1e-12"));
    assert_eq!(exact("1e29").to_decimal(), None);
    assert_eq!(exact("1/3").to_decimal(), None);
    assert_eq!(
        exact("1234567890123456.78901234567890").to_decimal().unwrap().to_string(),
        "1234567890123456.7890123456789"
    );
    assert_eq!(exact("9999999999999999.99999999999999").to_decimal(), None);
    assert_eq!(cents_to_decimal(5).unwrap().to_string(), "0.05");
    assert_eq!(cents_to_decimal(10_i128.pow(30)), None);
}

/// Small, large and at the edge of 128 bits, in few places and in many.
fn any_decimal() -> impl Strategy<Value = (i128, u32)> {
    let mantissa = prop_oneof![
        -1000..1000_i128,
        any::<i64>().prop_map(i128::from),
        any::<i128>(),
        prop::sample::select(vec![i128::MIN, i128::MIN + 1, i128::MAX, 0, 5, -5, 10_i128.pow(38)]),
    ];
    (mantissa, prop_oneof![0..4_u32, 0..45_u32])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The short form and its overflow into fractions are invisible: all is as with fractions alone.
    #[test]
    fn whatever_the_form_the_number_is_the_same((a, a_places) in any_decimal(), (b, b_places) in any_decimal()) {
        let long = |mantissa: i128, places| BigRational::new(mantissa.into(), power_of_ten(places));
        let (x, y) = (long(a, a_places), long(b, b_places));
        let same = |exact: Exact, fraction: BigRational| -> Result<(), TestCaseError> {
            prop_assert_eq!(exact.is_zero(), fraction.is_zero());
            prop_assert_eq!(exact.is_negative(), fraction.is_negative());
            prop_assert_eq!(exact.round(2, Rounding::HalfEven), Exact(Fraction(fraction.clone())).round(2, Rounding::HalfEven));
            prop_assert_eq!(exact.to_string(), Exact(Fraction(fraction.clone())).to_string());
            prop_assert_eq!(&exact, &Exact(Fraction(fraction)));
            Ok(())
        };
        for left in [Exact::short(a, a_places), Exact(Fraction(x.clone()))] {
            for right in [Exact::short(b, b_places), Exact(Fraction(y.clone()))] {
                same(left.clone() + right.clone(), &x + &y)?;
                same(left.clone() - right.clone(), &x - &y)?;
                same(left.clone() * right.clone(), &x * &y)?;
                let (mut sum, mut rest) = (left.clone(), left.clone());
                sum += right.clone();
                rest -= right.clone();
                same(sum, &x + &y)?;
                same(rest, &x - &y)?;
                prop_assert_eq!(left.cmp(&right), x.cmp(&y));
                prop_assert_eq!(left == right, x == y);
                if !y.is_zero() {
                    prop_assert_eq!(left.checked_div(&right), Some(Exact(Fraction(&x / &y))));
                }
            }
            for places in [0, 2, 12, 40] {
                let scale = BigRational::from_integer(power_of_ten(places));
                same(left.floor_to(places), (&x * &scale).floor() / &scale)?;
            }
            same(-left.clone(), -x.clone())?;
            let text = left.to_string();
            if text.len() <= 100 {
                same(text.parse().unwrap(), x.clone())?;
            }
        }
    }
}
