//! Why a request head was refused.

use http::StatusCode;

/// Why a head was refused before anything was made of it.
///
/// The messages say what is wrong and hold nothing that the client sent: a head that two parsers
/// read differently may well hide a credential where a harmless field is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadFault {
    /// No end within `limits.max_header_bytes`.
    #[error("the request head is larger than limits.max_header_bytes")]
    TooLarge,
    /// More than [`super::FIELDS_MAX`] fields.
    #[error("the request head has more than 100 fields")]
    TooManyFields,
    /// A TLS record came to a listener that has no TLS.
    #[error("the client speaks TLS, but this listener is plain: use http:// in the proxy's URL")]
    TlsOnPlainListener,
    /// A load balancer announces the client by the PROXY protocol, which is not spoken here.
    #[error(
        "the connection begins with a PROXY protocol header, which this listener does not take"
    )]
    ProxyProtocolUnexpected,
    /// More than the one empty line before the request line that RFC 9112 §2.2 lets pass.
    #[error("more than one empty line before the request line")]
    LeadingEmptyLines,
    /// A CR that no LF follows (RFC 9112 §2.2).
    #[error("a carriage return that no line feed follows")]
    BareCr,
    /// An LF that follows no CR: lenient parsers end a line there (RFC 9112 §2.2).
    #[error("a line feed that follows no carriage return")]
    BareLf,
    /// NUL or another control character; in the request line a tab too.
    #[error("a control character in the request head")]
    ControlCharacter,
    /// A byte above 0x7f in the request line.
    #[error("the request line is not ASCII")]
    RequestLineNotAscii,
    /// Not exactly method, request-target and version with one space between them.
    #[error("the request line is not a method, a target and a version, one space apart")]
    RequestLine,
    /// Not a token of at most [`super::METHOD_BYTES_MAX`] bytes.
    #[error("the method is not a token of at most 32 characters")]
    Method,
    /// A `#` in the request-target: never sent to a server, and read in two ways (RFC 9112 §3.2).
    #[error("the request target has a fragment")]
    TargetFragment,
    /// An HTTP version other than 1.0 and 1.1, or HTTP/2 without its preface.
    #[error("the HTTP version is neither 1.0 nor 1.1")]
    Version,
    /// A field goes on over a second line, or a line begins with white space (RFC 9112 §5.2).
    #[error("a line of the request head begins with white space")]
    ObsFold,
    /// A line without a colon among the fields.
    #[error("a field without a colon")]
    FieldWithoutColon,
    /// Nothing before the colon.
    #[error("a field without a name")]
    FieldNameEmpty,
    /// White space between a name and its colon (RFC 9112 §5.1).
    #[error("white space before the colon of a field")]
    SpaceBeforeColon,
    /// A name that is not a token.
    #[error("a field whose name is not a token")]
    FieldNameInvalid,
    /// `Content_Length` or `Transfer_Encoding`: servers that turn field names into variables take
    /// these for the ones with a hyphen.
    #[error("a field whose name differs from one of message framing only by an underscore")]
    FieldNameLookalike,
    /// More than one Content-Length, equal ones too.
    #[error("more than one content-length")]
    ContentLengthRepeated,
    /// Not a decimal number below 2^64, a sign, list or leading zero included.
    #[error("content-length is not one decimal number")]
    ContentLengthInvalid,
    /// More than one Transfer-Encoding.
    #[error("more than one transfer-encoding")]
    TransferEncodingRepeated,
    /// Anything but `chunked`.
    #[error("transfer-encoding is not chunked")]
    TransferEncodingUnsupported,
    /// Transfer-Encoding in HTTP/1.0, which does not know it (RFC 9112 §6.1).
    #[error("transfer-encoding in an HTTP/1.0 request")]
    TransferEncodingInHttp10,
    /// Both of them (RFC 9112 §6.3).
    #[error("content-length together with transfer-encoding")]
    LengthAndEncoding,
    /// None in HTTP/1.1 (RFC 9112 §3.2).
    #[error("no host field")]
    HostMissing,
    /// More than one Host.
    #[error("more than one host field")]
    HostRepeated,
    /// Not a host name, IPv4 address or bracketed IPv6 address with an optional port.
    #[error("the host field is not a host with an optional port")]
    HostInvalid,
    /// CONNECT with a body: RFC 9110 §9.3.6 gives it no meaning, and what follows the head is the
    /// tunnel's.
    #[error("a CONNECT request with a body")]
    ConnectWithBody,
}

impl HeadFault {
    /// The stable word for it in refusals, events and metrics.
    pub fn cause(self) -> &'static str {
        match self {
            Self::TooLarge => "head_too_large",
            Self::TooManyFields => "too_many_fields",
            Self::TlsOnPlainListener => "tls_on_plain_listener",
            Self::ProxyProtocolUnexpected => "proxy_protocol_unexpected",
            Self::LeadingEmptyLines => "leading_empty_lines",
            Self::BareCr => "bare_cr",
            Self::BareLf => "bare_lf",
            Self::ControlCharacter => "control_character",
            Self::RequestLineNotAscii => "request_line_not_ascii",
            Self::RequestLine => "request_line_malformed",
            Self::Method => "method_invalid",
            Self::TargetFragment => "request_target_fragment",
            Self::Version => "http_version_unsupported",
            Self::ObsFold => "obs_fold",
            Self::FieldWithoutColon => "field_without_colon",
            Self::FieldNameEmpty => "field_name_empty",
            Self::SpaceBeforeColon => "space_before_colon",
            Self::FieldNameInvalid => "field_name_invalid",
            Self::FieldNameLookalike => "field_name_lookalike",
            Self::ContentLengthRepeated => "content_length_repeated",
            Self::ContentLengthInvalid => "content_length_invalid",
            Self::TransferEncodingRepeated => "transfer_encoding_repeated",
            Self::TransferEncodingUnsupported => "transfer_encoding_unsupported",
            Self::TransferEncodingInHttp10 => "transfer_encoding_in_http10",
            Self::LengthAndEncoding => "content_length_with_transfer_encoding",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostInvalid => "host_invalid",
            Self::ConnectWithBody => "connect_with_body",
        }
    }

    /// The status of the answer: 431 where the head is too much, else 400.
    pub fn status(self) -> StatusCode {
        if matches!(self, Self::TooLarge | Self::TooManyFields) {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        } else {
            StatusCode::BAD_REQUEST
        }
    }

    /// What is wrong, for the client: one clause in lower case, nothing of the request in it.
    pub fn detail(self) -> String {
        self.to_string()
    }
}
