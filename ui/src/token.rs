//! The secret that writing needs.

use std::fmt;
use std::io;

/// Bytes of randomness in a token.
const N_BYTES: usize = 16;

/// A secret that whoever may write knows.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A new one, from the system's randomness.
    ///
    /// # Errors
    /// When the system has none.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0_u8; N_BYTES];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Its text, to be told to whoever may write.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether `found` is this token. Takes as long for a guess that begins right as for any other.
    pub(crate) fn fits(&self, found: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), found.trim().as_bytes());
        let differences = ours.iter().zip(theirs).fold(0, |all, (a, b)| all | (a ^ b));
        ours.len() == theirs.len() && differences == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_token_fits() {
        let token = Token::random().unwrap();
        assert!(token.fits(token.text()) && token.text().len() == 2 * N_BYTES);
        let other = Token::random().unwrap();
        for wrong in ["", &token.text()[1..], &format!("{}0", token.text()), other.text()] {
            assert!(!token.fits(wrong), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(token.text()));
    }
}
