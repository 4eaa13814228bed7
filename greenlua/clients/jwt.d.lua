---@meta greenlua.jwt

---JSON Web Tokens. See docs/jwt.md.
---@class greenlua.Jwt
local jwt = {}

---@alias greenlua.JwtAlgorithm
---| "HS256"|"HS384"|"HS512"
---| "RS256"|"RS384"|"RS512"|"PS256"|"PS384"|"PS512"
---| "ES256"|"ES384"|"ES512"|"ES256K"
---| "EdDSA"

---What is wrong with a token.
---@alias greenlua.JwtCode
---| "missing" there is none
---| "malformed"
---| "algorithm" its algorithm is not among those allowed
---| "signature"
---| "expired"
---| "not_before"
---| "audience"
---| "issuer"
---| "missing_claim"

---@class greenlua.JwtEncodeOptions
---@field algorithm? greenlua.JwtAlgorithm `"HS256"` by default
---@field headers? table<string, any> further headers, as `kid`
---@field expires_in? number seconds from now; sets the claim `exp`

---@class greenlua.JwtDecodeOptions
---@field algorithms? greenlua.JwtAlgorithm|greenlua.JwtAlgorithm[] all of one kind of key; `"HS256"` by default
---@field audience? string|string[] one of these must be in `aud`
---@field issuer? string|string[] `iss` must be one of these
---@field leeway? number seconds by which clocks may differ
---@field require? string|string[] claims that must be there

---A signed token. Raises where key, claims or options are not allowed.
---@param claims table<string, any>
---@param key string a secret, or a private key as PEM
---@param options? greenlua.JwtEncodeOptions
---@return string
function jwt.encode(claims, key, options) end

---The claims of a token, once its signature and its claims are found to be good.
---@param token? string
---@param key string a secret, or a public key as PEM
---@param options? greenlua.JwtDecodeOptions
---@return table<string, any>? claims nil when the token is not good
---@return string? why
---@return greenlua.JwtCode? code
function jwt.decode(token, key, options) end

---The header of a token, which nobody has verified: to choose a key by its `kid`.
---@param token? string
---@return table<string, any>? header
---@return string? why
---@return greenlua.JwtCode? code
function jwt.header(token) end

return jwt
