{
  const held = JSON.parse(document.getElementById("data").textContent);
  const stage = document.getElementById("stage");
  document.getElementById("trace").append(sightline.view(held.trace, held.name, stage, document.getElementById("looked")));
}
