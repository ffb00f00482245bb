/** Tests run as ES modules through SWC; types are checked by `npm run typecheck`. */
export default {
  testEnvironment: "<rootDir>/test/environment.js",
  testMatch: ["<rootDir>/test/**/*.test.ts"],
  extensionsToTreatAsEsm: [".ts"],
  transform: { "^.+\\.ts$": ["@swc/jest", { jsc: { target: "es2022", parser: { syntax: "typescript" } } }] },
  maxWorkers: 2,
  testTimeout: 300_000,
};
