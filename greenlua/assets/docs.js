// Starts Swagger UI on the document that the page names.
"use strict";
const place = document.getElementById("docs");
SwaggerUIBundle({
  domNode: place,
  url: place.dataset.openapi,
  deepLinking: true,
  displayRequestDuration: true,
  validatorUrl: null, // it would be asked over the network
});
